from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEFORE = """
import sys
import lora_core
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel
from lora_core.late_compiler import Waiting
compiler = sys.modules["torch._dynamo"]
assert type(compiler) is Waiting, compiler

plain = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(plain.parameters())
plain(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()

@torch.compiler.disable
def doubled(x):
    return x * 2

@torch.compiler.disable(recursive=False)
def tripled(x):
    return x * 3

assert not isinstance(plain, torch._dynamo.eval_frame.OptimizedModule)
assert doubled(2) == 4 and tripled(2) == 6
"""
AFTER = """
assert type(compiler) is Waiting, "a step of training does not need it"
seen = []

def backend(graph, inputs):
    seen.append(graph)
    return graph.forward

def mixed(x):
    return tripled(doubled(x + 1) + 1)

assert torch.equal(torch.compile(mixed, backend=backend)(torch.ones(2)), torch.full((2,), 15.0))
assert isinstance(torch.compile(plain, backend="eager"), torch._dynamo.eval_frame.OptimizedModule)
assert type(compiler) is not Waiting and torch._dynamo is compiler
called = [str(node.target) for graph in seen for node in graph.graph.nodes if node.op == "call_function"]
assert called and not any("mul" in name for name in called), called
optimizer.zero_grad()
from torch._dynamo import utils
assert utils.__name__ == "torch._dynamo.utils"
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_step_needs_no_compiler_and_who_compiles_gets_the_real_one_with_all_it_missed() -> None:
    run(BEFORE + AFTER)


def test_a_part_of_the_compiler_that_is_imported_first_brings_the_whole() -> None:
    run("import lora_core, torch\nfrom torch._dynamo.utils import counters\nimport torch._dynamo\n"
        "assert torch._dynamo.utils.counters is counters and torch._dynamo.is_compiling() is False")  # fmt: skip
