"""Load a file of definitions as Dagster does: `python check_dagster.py FILE`."""

import importlib.util
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg


def load(path: Path) -> dg.Definitions:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    definitions: dg.Definitions = module.definitions()
    dg.Definitions.validate_loadable(definitions)
    return definitions


def main(path: Path) -> None:
    definitions = load(path)
    (schedule,) = definitions.schedules or ()
    with TemporaryDirectory() as folder:
        planted = Path(folder, "planted.py")
        planted.write_text(path.read_text().replace('"ray_jobs": ', '"ray_job": '))
        try:
            load(planted)
        except dg.DagsterInvalidDefinitionError:
            print(f"dagster: {schedule.name}; a planted mistake was found")
            return
    raise AssertionError("a resource of another name was not found")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
