import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.losses.distillation import TEACHER, Distillation, divergence
from tests.losses.by_hand import Features, copy, distance, features, gradients

STUDENT = ("image_features", "text_features", "logit_scale")


def taught(count: int = 9, *, scale: float = 20.0, teacher_scale: float = 50.0, teacher_width: int = 6) -> Features:
    teacher = features(count, width=teacher_width, scale=teacher_scale, seed=1)
    return {**features(count, scale=scale), **{f"teacher_{k}": v.detach() for k, v in teacher.items()}}


def student_of(given: Features) -> Features:
    return {name: given[name] for name in STUDENT}


def by_loop(given: Features) -> Tensor:
    score = given["logit_scale"].exp() * given["image_features"] @ given["text_features"].T
    right = given["teacher_logit_scale"].exp() * given["teacher_image_features"] @ given["teacher_text_features"].T
    total = score.new_zeros(())
    for student, teacher in ((score, right), (score.T, right.T)):
        for i in range(len(score)):
            p, q = student[i].log_softmax(dim=0), teacher[i].log_softmax(dim=0)
            total = total + (q.exp() * (q - p)).sum()
    return total / (2 * len(score))


@pytest.mark.parametrize("tile", [None, (4, 3), (1, 1)])
@pytest.mark.parametrize(("scale", "teacher_scale"), [(5.0, 10.0), (100.0, 100.0)])
def test_the_divergence_and_its_gradients_are_those_of_a_loop(scale, teacher_scale, tile):
    given = taught(scale=scale, teacher_scale=teacher_scale)
    expected = by_loop(given)
    wanted = gradients(expected, student_of(given))
    for dtype, epsilon in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        own = copy(given, dtype) | {k: v.detach().to(dtype) for k, v in given.items() if k in TEACHER}
        found = divergence(own, tile)
        assert found.item() == pytest.approx(expected.item(), rel=epsilon)
        for name, gradient in gradients(found, student_of(own)).items():
            assert distance(gradient, wanted[name]) <= epsilon, (name, dtype)


def test_gradcheck_in_float64():
    given = taught(5)
    teacher = {k: v for k, v in given.items() if k in TEACHER}

    def value(*inputs: Tensor) -> Tensor:
        return divergence({**teacher, **dict(zip(STUDENT, inputs, strict=True))}, (2, 3))

    assert torch.autograd.gradcheck(value, tuple(given[name] for name in STUDENT))


def test_the_gradient_is_that_of_open_clip():
    from open_clip.loss import DistillClipLoss

    given = taught(teacher_width=8)
    ours = gradients(divergence(given), student_of(given))
    s = given["logit_scale"].exp()
    right = [given[name] for name in TEACHER]
    _, dist = DistillClipLoss()(*[given[n] for n in STUDENT[:2]], s, right[0], right[1], right[2].exp())
    for name, gradient in gradients(dist, student_of(given)).items():
        torch.testing.assert_close(ours[name], gradient)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    given = features(9)
    given |= {f"teacher_{name}": value.detach() for name, value in given.items()}
    terms = Distillation(8, 8, features=1.0)(given, {})
    assert terms["loss"].item() == pytest.approx(0.0, abs=1e-12)
    assert all(g.abs().max() <= 1e-12 for g in gradients(terms["loss"], student_of(given)).values())


def test_feature_distance_is_that_of_a_loop_and_trains_its_heads_where_sizes_differ():
    given = copy(taught(), torch.float32)
    loss = Distillation(8, 6, logits=0.0, features=2.0)
    terms = loss(given, {})
    total = 0.0
    for name, head in (("image_features", loss.image_head), ("text_features", loss.text_head)):
        for own, other in zip(given[name], given[f"teacher_{name}"], strict=True):
            total += (F.normalize(head.weight @ own, dim=0) - other).square().sum().item()
    assert terms["features"].item() == pytest.approx(total / 9, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(2 * total / 9, rel=1e-5)
    terms["loss"].backward()
    assert loss.image_head.weight.grad.norm() > 0
    assert loss.text_head.weight.grad.norm() > 0


def test_equal_sizes_need_no_heads():
    assert not list(Distillation(8, 8, features=1.0).parameters())


def test_without_a_teacher_it_says_what_to_set():
    with pytest.raises(ConfigError, match=r"distillation needs teacher_image_features; set model\.teacher"):
        Distillation(8, 8)(features(4), {})
    assert Distillation.needs({}) == set(TEACHER)


def test_features_that_are_no_numbers_give_a_loss_and_gradients_that_are_none():
    given = copy(taught(), torch.float32)
    with torch.no_grad():
        given["image_features"][3, 0] = torch.nan
    loss = Distillation(8, 6)(given, {})["loss"]
    assert loss.isnan()
    loss.backward()
    assert given["image_features"].grad.isnan().all()
    assert given["text_features"].grad.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": -1.0}, "logits: -1.0 must be at least 0"),
        ({"logits": 0.0}, "logits and features are both 0; nothing would be distilled"),
    ],
)
def test_weights_that_distil_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Distillation(8, 8, **options)
