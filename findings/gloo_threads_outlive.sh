#!/usr/bin/env bash
# torch 2.13: after destroy_process_group() Gloo's threads live on, if DistributedDataParallel was made in between.
#
# Behaviour: init_process_group("gloo"), a DistributedDataParallel that is made and dropped, gc.collect(),
# destroy_process_group(): Gloo's threads are still there, and stay until the process ends. With `import torch._dynamo`
# before init_process_group they end with the group. DistributedDataParallel's constructor imports torch._dynamo, and an
# import while there is a group keeps that group; an import beforehand does not.
# Why a good guess is wrong: destroy_process_group() is what the documentation calls for before the end, nothing of the
# user's refers to the group any more, and the order of imports of a private module is not expected to matter.
# Whom it hits: short training scripts. One of the threads may hold the last step's gradients, for whose release it needs
# Python's lock; while the interpreter ends it cannot have it, and the process aborts after its work is done, sometimes.
# Source: seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu numpy==2.4.6
cat > "$folder/leave.py" <<'PYTHON'
import gc
import os
import sys

import torch
import torch.distributed as dist

if sys.argv[1] == "early":
    import torch._dynamo


def threads():
    return sorted(open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task"))


dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
model(torch.ones(5, 3)).sum().backward()
del model
gc.collect()
dist.destroy_process_group()
print(sum("gloo" in name for name in threads()))
PYTHON
late=$("$folder/venv/bin/python" -W ignore "$folder/leave.py" late "$folder/late" | tail -n 1)
early=$("$folder/venv/bin/python" -W ignore "$folder/leave.py" early "$folder/early" | tail -n 1)
echo "Gloo's threads after destroy_process_group(): $late; with torch._dynamo imported before the group: $early"
[ "$late" -gt 0 ] && [ "$early" = 0 ] || { echo "the behaviour has changed"; exit 1; }
