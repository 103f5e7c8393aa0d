"""Small stand-ins for what recipes meet: their modules, the web, and a program that writes what img2dataset writes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.toys import encode, image

ROOT = Path(__file__).parents[2]
# Serves http://here/NAME from the folder WEB; a name that is not there is a dead link. Its files are img2dataset's
# (1.47.0: reader.py, downloader.py, writer.py, logger.py), and so is its choice of columns.
PROGRAM = """#!{python}
import hashlib, io, json, sys, tarfile
from collections import Counter
from pathlib import Path
from pyarrow import parquet

options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
(Path("{web}") / "asked.json").write_text(json.dumps(options))
out, size = Path(options["output_folder"]), int(options["number_sample_per_shard"])
digits, shard = int(options["oom_shard_count"]), 0
done = {{int(path.name.split("_")[0]) for path in out.glob("*.json")}}
columns = json.loads(options["save_additional_columns"]) + ["caption", "url"]
boxes, check = options.get("bbox_col"), json.loads(options.get("verify_hash", "[null]"))[0]
for file in sorted(Path(options["url_list"]).glob("*.parquet")):
    table = parquet.read_table(file)
    hashes = table.column(check).to_pylist() if check else None
    assert boxes is None or boxes in table.column_names
    rows = table.select(columns).to_pylist()
    for start in range(0, len(rows), size):
        if shard not in done:
            counts, metas = Counter(), []
            with tarfile.open(out / f"{{shard:0{{digits}}d}}.tar", "w") as tar:
                for place, row in enumerate(rows[start : start + size]):
                    path = Path("{web}") / row["url"].rpartition("/")[2]
                    content = path.read_bytes() if path.is_file() else None
                    key = f"{{shard:0{{digits}}d}}{{place:04d}}"
                    wrong = check and content and hashlib.sha256(content).hexdigest() != hashes[start + place]
                    said = "HTTP Error 404: Not Found" if content is None else "hash mismatch" if wrong else None
                    status = "success" if said is None else "failed_to_download"
                    meta = {{**row, "key": key, "status": status, "error_message": said, "exif": "{{}}"}}
                    counts[said or "success"] += 1
                    metas.append(meta)
                    if said is None:
                        meta["sha256"] = hashlib.sha256(content).hexdigest()
                        members = {{"jpg": content, "txt": row["caption"].encode(), "json": json.dumps(meta).encode()}}
                        for name, held in members.items():
                            info = tarfile.TarInfo(f"{{key}}.{{name}}")
                            info.size = len(held)
                            tar.addfile(info, io.BytesIO(held))
            name = f"{{shard:0{{digits}}d}}"
            import pyarrow as pa
            parquet.write_table(pa.Table.from_pylist(metas), out / f"{{name}}.parquet")
            failed = sum(counts.values()) - counts["success"]
            said = {{"count": sum(counts.values()), "successes": counts["success"], "failed_to_download": failed,
                     "failed_to_resize": 0, "duration": 1.0, "status_dict": dict(counts)}}
            (out / f"{{name}}_stats.json").write_text(json.dumps(said))
        shard += 1
"""


def recipe(name: str) -> ModuleType:
    """Return a file of data_recipes/ as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", ROOT / "data_recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def web(folder: Path, count: int) -> str:
    """Put `count` JPEGs, 0.jpg …, on the web; return the program that downloads from there."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(encode(image(number, 32), "JPEG"))
    program = folder / "img2dataset"
    program.write_text(PROGRAM.format(python=sys.executable, web=folder))
    program.chmod(0o755)
    return str(program)


def asked(folder: Path) -> dict[str, Any]:
    """Return the options that the program was called with."""
    found: dict[str, Any] = json.loads((folder / "asked.json").read_text())
    return found


def url(number: int | str) -> str:
    """Return the address of an image on the web."""
    return f"http://here/{number}.jpg"
