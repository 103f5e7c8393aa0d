from PIL import Image

from contrastive.runs.deduplication_report import side_by_side


def test_pictures_lie_side_by_side():
    both = side_by_side(Image.new("RGB", (400, 100), "red"), Image.new("L", (20, 30), 0))
    assert both.size == (328, 160)
    assert both.getpixel((80, 20)) == (255, 0, 0)
    assert both.getpixel((170, 5)) == (0, 0, 0)
    assert both.getpixel((164, 5)) == (255, 255, 255)
