"""Whole models in every form: python check_forms.py STEADYDANCE FOLDER

Writes the demo's transformer in every form of `whole_models.py` into FOLDER, each with what it decodes to as f32 by other hands than
ours, and lets the program inspect and compare: every tensor fits, and every number is the expected one. Forms that gguf-py cannot write
are written by the program, and their numbers are those that gguf-py reads; of those that both write the files agree. No test needs it.
Then `STEADYDANCE_FORMS=FOLDER cargo test --test formats -- --ignored --nocapture` computes the velocity of each.
"""

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from whole_models import OURS, WRITERS, read_ggml

DEMO = Path(__file__).parents[2] / "models/demo/dit.safetensors"
# Rotated weights are turned back by sums, in another order than PyTorch's; all else is one product a number.
ROUNDING = {"comfy_int8_rotated.safetensors": 1e-6}
# Both write them, by the same rule. The customary q4_0 and q5_0 have finer matrices among them, which gguf-py's here have not.
SAME = {"Q8_0.gguf": "q8_0", "Q5_1.gguf": "q5_1", "Q4_1.gguf": "q4_1"}


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)

    def run(*line):
        done = subprocess.run([program, *map(str, line)], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return json.loads(done.stdout) if "--json" in line else done.stdout

    def compare(one, other):
        found = run("inspect", one, "--compare", other, "--json")
        assert not any(found[k] for k in ("missing", "added", "misshapen", "skipped")), found
        return found["tensors"]

    tensors, table = load_file(DEMO), []
    forms = [(name, writer, write) for name, (writer, write) in WRITERS.items()] + [(f"{f}.gguf", "steadydance", f) for f in OURS]
    for name, writer, write in forms:
        path, truth = folder / name, folder / f"{name}.expected.safetensors"
        if callable(write):
            expected = write(tensors, path)
        else:
            run("convert", DEMO, "--to", write, "-o", path, "--force")
            expected = read_ggml(path)
        save_file({k: v.contiguous() for k, v in expected.items()}, truth)
        network = run("inspect", path, "--json")["network"]
        assert network["component"] == "dit" and network["deviations"] is None, network
        away = max(t["relative_error"] for t in compare(truth, path))
        assert away <= ROUNDING.get(name, 0), f"{name}: {away} from what {writer} reads"
        if name in SAME:
            ours = folder / f"ours-{name}"
            run("convert", DEMO, "--to", SAME[name], "-o", ours, "--force")
            assert all(t["largest_error"] == 0 for t in compare(ours, path)), name
        worst = compare(DEMO, path)[0]["relative_error"]
        table.append({"name": name, "writer": writer, "weights": worst})
        print(f"{name}: by {writer}, worst matrix {worst:.1e} off, {away:.0e} from what is expected", flush=True)
    (folder / "forms.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
