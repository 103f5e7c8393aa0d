"""The faults that are injected here, and what happens: the table of docs/reliability.md.

.venv/bin/python tests/faults/faults.py           # prints the table, with the tests that there are
.venv/bin/python tests/faults/faults.py --write   # and puts it into docs/reliability.md
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->\n"
SAME = "the run goes on, and ends with the same bits"
FAULTS = {
    1: ("SIGKILL of everything, at a random moment", SAME),
    2: ("SIGKILL before a checkpoint is written", f"the one before is taken; {SAME}"),
    3: ("SIGKILL between weights and optimizer", f"the half checkpoint is ignored and removed; {SAME}"),
    4: ("SIGKILL between fsync and rename", f"the one before is taken; {SAME}"),
    5: ("SIGKILL between rename and pruning", "the new one is taken; the old one goes at the next save"),
    6: ("SIGKILL while an old checkpoint is removed", "what is left of it is never taken for a checkpoint"),
    7: ("one rank dies", "the others end within 10 s and name it; no process is left; the same bits after it"),
    8: ("one rank is frozen", "the others end when their patience does, with all stacks, and name it"),
    9: ("SIGKILL of the launcher", "its ranks are gone within 2 s"),
    10: ("a second job in the same directory", "refused at once, naming who holds it; a killed job holds nothing"),
    11: ("SIGTERM to the launcher", f"a checkpoint of that step and `preempted.json`; {SAME}"),
    12: ("SIGTERM to one rank", "all stop at the same step, saved"),
    13: ("SIGTERM in an evaluation, in a save, twice", "saved within a batch; the save ends first; twice means now"),
    14: ("Ctrl-C", "as SIGTERM, saved once"),
    15: ("a loader worker is killed", "the job ends within 10 s and says which, by what, and what it was reading"),
    16: ("a loader worker runs out of memory", "the job ends and names shard and key"),
    17: ("a loader worker is frozen", "the job ends, with what it was reading; the worker is gone too"),
    18: ("the disk is full at a save", "the checkpoints that are there stay, training goes on, a warning counts"),
    19: ("the disk is full at the last save", "the run fails, with path and bytes needed"),
    20: ("a read-only directory", "refused before the first step"),
    21: ("a flipped bit in any file of a checkpoint", "noticed; the one before is taken, and the log says why"),
    22: ("files cut, empty, missing, unreadable, strange", "passed over, with the reason"),
    23: ("every checkpoint is damaged", "the run stops and changes nothing"),
    24: ("NaN on one rank", "no rank's weights change; stop with the samples named, or skip and count"),
    25: ("an infinite gradient of a finite loss", "the same"),
    26: ("one batch of huge images", "the update is no larger than others; the loss comes back"),
    27: ("damaged shards and samples", "counted by reason; too many end the run and name the shard"),
    28: ("a shard is deleted in the middle", "told, or stood in for; ranks agree on the steps"),
    29: ("fewer shards than ranks and workers", "equal steps on all ranks; a batch that does not divide is refused"),
    30: ("2, 1, 2 ranks in turn", "the same samples in every step; weights up to rounding"),
    31: ("3 and 4 ranks, killed", SAME),
    32: ("2, 0, 1 loader workers in turn", SAME),
    33: ("other settings", "applied and said, or refused with the way to go on"),
    34: ("a finished run, no checkpoint, another model's", "no further step; an explicit choice; refused"),
    35: ("the learning rate over five kills", "the function of the samples seen, exactly"),
    36: ("SIGKILL between micro-batches", SAME),
    37: ("a slow rank", "named in the log; the same bits"),
    38: ("a clock that jumps, figures that cannot be written", "training is not touched; one warning"),
    39: ("the port is taken", "another is taken, or a clear error within 10 s"),
    40: ("a launch that starts one process", "refused: the number of processes is checked"),
}  # fmt: skip


def injected() -> dict[int, list[str]]:
    """Return the names of the tests of every fault, as FILE::TEST, as their marks say."""
    found: dict[int, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        numbers: list[int] = []
        for line in path.read_text().splitlines():
            if marked := re.match(r"@pytest\.mark\.fault\((\d+)\)", line):
                numbers.append(int(marked[1]))
            elif line == "@each_fault":
                numbers += [24, 25]
            elif defined := re.match(r"def (\w+)\(", line):
                for number in numbers:
                    found.setdefault(number, []).append(f"{path.stem}::{defined[1]}")
                numbers = []
    return dict(sorted(found.items()))


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| | fault | what happens | in `tests/faults/` |", "|---|---|---|---|"]
    for number, names in injected().items():
        fault, happens = FAULTS[number]
        files: dict[str, list[str]] = {}
        for name in names:
            file, _, test = name.partition("::")
            files.setdefault(file, []).append(test.removeprefix("test_").replace("_", " "))
        said = "<br>".join(f"`{file}`: {'; '.join(own)}" for file, own in files.items())
        lines.append(f"| {number} | {fault} | {happens} | {said} |")
    return "\n".join(lines) + "\n"


def in_document() -> str:
    """Return the table as the document has it."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    sys.stdout.write(table())
    if "--write" in sys.argv:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
