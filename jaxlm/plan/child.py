"""The process that `program` starts: reads what is asked on stdin and writes the answer to the file named there."""

import json
import sys
from pathlib import Path
from typing import Any

from jaxlm.config import from_dict, to_dict
from jaxlm.errors import UserError
from jaxlm.plan import compile
from jaxlm.plan import topology as topologies


def main() -> None:
    asked = json.load(sys.stdin)
    Path(asked["answer"]).write_text(json.dumps(_answer(**asked)))


def _answer(function: str, topology: str, mesh: Any, what: Any, more: list[int], **rest: Any) -> dict[str, Any]:
    try:
        where = topologies.parse(topology)
        devices = topologies.mesh(where, from_dict(mesh))
        return to_dict(getattr(compile, function)(from_dict(what), where, devices, *more))
    except UserError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main()
