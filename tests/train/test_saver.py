import logging
import threading
import time

import pytest
import torch

from contrastive.train.saver import HostCopy, Saver


def test_a_copy_is_of_now_contiguous_and_its_room_is_used_again():
    host, weight = HostCopy(), torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    first = host.take({"a": {"w": weight}})["a"]["w"]
    expected = weight.clone()
    weight.add_(1)
    assert torch.equal(first, expected)
    assert first.is_contiguous()
    again = host.take({"a": {"w": weight}})["a"]["w"]
    assert again.data_ptr() == first.data_ptr()
    host.wait()
    assert torch.equal(again, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_any_kind_of_tensor_is_copied(dtype: torch.dtype, shape: tuple[int, ...]):
    value = (torch.rand(shape) * 5).to(dtype)
    expected = value.clone()
    copied = HostCopy().take({"a": {"w": value}})["a"]["w"]
    value.zero_()
    assert copied.dtype == dtype
    assert torch.equal(copied, expected)


def test_equal_names_in_two_files_are_two_tensors():
    copies = HostCopy().take({"a": {"w": torch.zeros(2)}, "b": {"w": torch.ones(2)}})
    assert (copies["a"]["w"].sum(), copies["b"]["w"].sum()) == (0, 2)


def test_a_write_does_not_hold_up_the_caller_and_the_next_one_waits_for_it():
    saver, release, order = Saver(), threading.Event(), []

    def slow() -> None:
        release.wait(10)
        order.append("first")

    before = time.perf_counter()
    saver.start(slow)
    assert time.perf_counter() - before < 1
    assert saver.is_busy(0.01)
    threading.Timer(0.2, release.set).start()
    saver.start(lambda: order.append("second"))
    saver.close()
    assert order == ["first", "second"]
    assert not saver.is_busy(0)


def test_what_the_disk_refuses_is_told_and_counted_until_a_write_succeeds(caplog: pytest.LogCaptureFixture):
    saver = Saver()

    def full() -> None:
        raise OSError("no space left")

    with caplog.at_level(logging.WARNING, "contrastive"):
        for expected in (1, 2):
            saver.start(full)
            saver.settle()
            assert saver.failures == expected
    assert "a checkpoint could not be written (2 in a row): no space left; earlier ones are intact" in caplog.text
    saver.start(lambda: None)
    saver.settle()
    assert (saver.failures, saver.error) == (0, None)


def test_a_mistake_of_ours_is_no_full_disk():
    saver = Saver()

    def wrong() -> None:
        raise KeyError("a")

    saver.start(wrong)
    with pytest.raises(KeyError):
        saver.settle()
