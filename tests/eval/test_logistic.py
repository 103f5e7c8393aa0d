import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from contrastive.eval import logistic
from contrastive.eval.logistic import Problem, augmented, losses
from tests.eval.probes import CLASSES, cloud

CPU = torch.device("cpu")
LABELS = torch.arange(150) % CLASSES


def problem(labels: Tensor = LABELS) -> Problem:
    return Problem(cloud(labels.tolist(), 0), labels, CLASSES, CPU)


def objective(weight: Tensor, bias: Tensor, strength: float) -> float:
    logits = cloud(LABELS.tolist(), 0).double() @ weight.T + bias
    return (cross_entropy(logits, LABELS, reduction="sum") + strength / 2 * weight.square().sum()).item() / len(LABELS)


@pytest.mark.parametrize("strength", [1e3, 10.0, 1.0, 1e-1, 1e-2, 1e-3])
def test_the_loss_is_scikit_learns_optimum(strength: float) -> None:
    features = cloud(LABELS.tolist(), 0).double().numpy()
    known = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10_000).fit(features, LABELS.numpy())
    optimum = objective(torch.from_numpy(known.coef_), torch.from_numpy(known.intercept_), strength)
    found = problem().fit(strength)
    assert found.loss == pytest.approx(objective(found.weight, found.bias, strength), rel=1e-6)
    assert found.loss == pytest.approx(optimum, rel=2e-5)


def test_weights_and_intercepts_are_scikit_learns() -> None:
    features = cloud(LABELS.tolist(), 0)
    known = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(features.double().numpy(), LABELS.numpy())
    found = problem().fit(1.0)
    torch.testing.assert_close(found.weight, torch.from_numpy(known.coef_), atol=1e-2, rtol=0)
    probabilities = torch.from_numpy(known.predict_proba(features.double().numpy()))
    torch.testing.assert_close(
        (augmented(features) @ found.documents().T).softmax(1).double(), probabilities, atol=2e-3, rtol=0
    )


def test_more_dimensions_than_images_are_no_trouble() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1])
    features = cloud(labels.tolist(), 0).repeat(1, 20) / 20**0.5
    known = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    found = Problem(features, labels, 3, CPU).fit(0.1)
    logits = torch.from_numpy(known.decision_function(features.double().numpy()))
    penalty = 0.05 * torch.from_numpy(known.coef_).square().sum()
    optimum = (cross_entropy(logits, labels, reduction="sum") + penalty).item() / 5
    assert found.weight.shape == (3, features.shape[1])
    assert found.loss == pytest.approx(optimum, rel=1e-5)


def test_where_the_search_begins_does_not_change_where_it_ends() -> None:
    near = problem().fit(0.5)
    found, again = problem().fit(0.1), problem().fit(0.1, start=near)
    assert again.loss == pytest.approx(found.loss, rel=1e-5)
    assert again.iterations < found.iterations


def test_two_fits_are_equal_to_the_last_bit() -> None:
    assert torch.equal(problem().fit(0.1).weight, problem().fit(0.1).weight)


def test_pieces_do_not_change_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem().fit(0.1)
    monkeypatch.setattr(logistic, "PIECE", 100)
    assert problem().fit(0.1).loss == pytest.approx(whole.loss, rel=1e-5)


def test_no_more_steps_are_taken_than_allowed() -> None:
    assert problem().fit(1e-4, iterations=3).iterations == 3


def test_equal_rows_and_a_single_class_have_an_optimum_too() -> None:
    same = Problem(cloud([0], 0).repeat(6, 1), torch.arange(6) % 2, 2, CPU).fit(1.0)
    assert same.loss == pytest.approx(torch.tensor(2.0).log().item())
    assert Problem(cloud([0] * 4, 0), torch.zeros(4, dtype=torch.int64), 1, CPU).fit(1.0).loss == 0


def test_losses_are_the_cross_entropy_of_each_row() -> None:
    found, features = problem().fit(1.0), cloud([2, 3, 1], 5)
    expected = cross_entropy(features.double() @ found.weight.T + found.bias, torch.tensor([2, 3, 1]), reduction="none")
    torch.testing.assert_close(losses(found, features, torch.tensor([2, 3, 1])).double(), expected, atol=1e-5, rtol=0)
