"""Execute a notebook in a real kernel and print its output as it comes: `python notebooks/execute.py NOTEBOOK`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


class LiveClient(NotebookClient):
    """A NotebookClient that shows what each cell prints, when it prints it."""

    def process_message(self, message: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Print a message of the kernel, then have it stored in the notebook as usual."""
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                print(content["text"], end="", flush=True)
            case "display_data" | "execute_result":
                print(content["data"].get("text/plain", ""), flush=True)
            case "execute_input":
                first = content["code"].split("\n")[0]
                print(f"\n── In [{content['execution_count']}]: {first}", flush=True)
        return super().process_message(message, cell, cell_index)


def main(path: Path) -> int:
    """Run the notebook at `path`, in its own folder. Returns the exit status: 1 when a cell raised."""
    notebook = nbformat.read(path, as_version=4)
    client = LiveClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
