"""Choose the everyday tests by measured time, and write all others into tests/slow.txt:

    rm -rf /tmp/jaxlm-tests-*; ./scripts/test --all --junitxml times.xml; python scripts/slow_tests.py times.xml

Kept are the quickest test of every file, the quickest case of every test function that takes at most EACH seconds, and
of all others the quickest until SECONDS are used.
"""

import sys
import xml.etree.ElementTree
from collections import defaultdict
from pathlib import Path

SLOW = Path(__file__).resolve().parents[1] / "tests" / "slow.txt"
EACH, SECONDS = 0.7, 240  # of processor time of the whole suite; alone they share less and take twice that


def slow_tests(times: dict[str, float]) -> list[str]:
    """Ids that the everyday tests leave out; a function alone where that is all of its cases."""
    of_file, of_function, cases = {}, {}, defaultdict(set)
    for test in sorted(times, key=lambda test: (times[test], test)):
        function = test.partition("[")[0]
        cases[function].add(test)
        of_file.setdefault(test.partition("::")[0], test)
        if times[test] <= EACH:
            of_function.setdefault(function, test)
    kept = {*of_file.values(), *of_function.values()}
    left, slow = SECONDS - sum(times[test] for test in kept), set()
    for test in sorted(set(times) - kept, key=lambda test: (times[test], test)):
        left -= times[test]
        if left < 0:
            slow.add(test)
    whole = {function for function, ids in cases.items() if ids <= slow}
    return sorted(whole | {test for test in slow if test.partition("[")[0] not in whole})


def read(path: str) -> dict[str, float]:
    """Seconds of every test of a JUnit report that was run."""
    found = {}
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        if case.find("skipped") is None:
            file = case.attrib["classname"].replace(".", "/") + ".py"
            found[f"{file}::{case.attrib['name']}"] = float(case.attrib["time"])
    return found


if __name__ == "__main__":
    ids = slow_tests(read(sys.argv[1]))
    SLOW.write_text("".join(f"{test}\n" for test in ids))
    print(f"{len(ids)} lines in {SLOW}")
