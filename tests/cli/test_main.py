"""The command line, as a person meets it: real processes for the door, `request` for what the flags come to."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from lora_core import __version__
from lora_core.cli import flags
from lora_core.cli import request as requests
from lora_core.cli import training as terminal_training
from lora_core.cli.main import main
from lora_core.cli.request import Request, request
from lora_core.cli.training import resume_command
from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.install.bootstrap import COMMANDS, ROOT
from lora_core.lora.file import write
from lora_core.runs.run import Run
from lora_core.system.signals import ONE_PRESS_S
from tests.support.lora_values import random_lora

QUICK = [
    "--resolution", "64", "--bucket_step", "16", "--train_batch_size", "2", "--lora_rank", "2", "--sample_count", "0",
    "--mixed_precision", "no", "--device", "cpu",
]  # fmt: skip


def door(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run treino.py as a person does."""
    command = [sys.executable, str(ROOT / "treino.py"), *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}


def asked(*words: str) -> Request:
    return request(flags.parse(list(words)))


def wrong(*words: str) -> str:
    with pytest.raises(UserError) as told:
        asked(*words)
    return str(told.value)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder to name; the settings are what is tested here. The tests run beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Training").mkdir()
    return "Training"


# --- the door -----------------------------------------------------------------------------------------------------


def test_help_is_quick_and_complete() -> None:
    done = door("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "--train_data_dir FOLDER" in done.stdout
    assert "default 512 pixels" in " ".join(done.stdout.split())
    assert door("-h").stdout == done.stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["--list_presets"], ["--lora_rnk", "1"]])
def test_nothing_heavy_is_imported_for_an_answer(words: list[str]) -> None:
    code = (
        "import sys; from lora_core.cli.main import main; main(sys.argv[1:])\n"
        "import sys; sys.exit(bool({'torch', 'numpy', 'PIL', 'diffusers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_version_and_presets() -> None:
    assert door("--version").stdout == f"Treino {__version__}\n"
    listed = door("--list-presets")
    assert listed.returncode == 0
    assert "quickstart: Quick start\n    Teaches" in listed.stdout


def test_every_slip_is_told_at_once_without_a_traceback(tmp_path: Path) -> None:
    done = door("--lora_rnk", "4", "--resolution", "513", "--seed", "x", "--train_data_dir", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "treino: several things are wrong:",
        "  There is no flag --lora_rnk. Did you mean '--lora_rank'?",
        "  --resolution: 513 is not a multiple of 8; take 512 or 520",
        "  --seed: needs a whole number, not 'x'",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--train_data_dir is required: name the folder with the pictures and captions."),
        (["--train_data_dir", "no such folder"], "--train_data_dir: no such folder does not exist; name the folder"),
        (["--train_data_dir", "treino.py"], "--train_data_dir: treino.py is a file, not a folder"),
        (["--preset", "quikstart"], "There is no preset 'quikstart'; known are"),
        (["--resume", "--output_dir", "no run"], "--resume: there is no run in no run; check --output_dir"),
        (["--train_data_dir", "presets", "--lora_rank", "0"], "--lora_rank: 0 is too low; the least is 1"),
        (["--train_data_dir", "presets", "--mixed_precision", "fp61"], "Did you mean 'fp16'?"),
        (["--train_data_dir", "presets", "--target_modules", "to_q,to_z"], "--target_modules: 'to_z' is not one of"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(words: list[str], told: str) -> None:
    done = door(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("treino: ") and told in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, str(ROOT / "treino.py"), "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# --- what the flags come to ---------------------------------------------------------------------------------------


def test_flags_become_a_config(training: str) -> None:
    wanted = asked("--train_data_dir", training, "--lora-rank", "4", "--random_flip", "--target_modules", "to_k, to_v")
    assert (wanted.config.lora_rank, wanted.config.random_flip) == (4, True)
    assert wanted.config.target_modules == ("to_k", "to_v")
    assert Path(wanted.config.train_data_dir) == Path.cwd() / "Training"  # so that it can be resumed from anywhere
    assert wanted.resume == "" and wanted.notes == ()


def test_the_briefs_command_is_understood_as_written(training: str) -> None:
    command = (
        r"--train_data_dir .\Training --output_dir .\meu_lora_out --pretrained_model_name_or_path "
        "runwayml/stable-diffusion-v1-5 --resolution 512 --train_batch_size 1 --max_train_steps 1500 --save_steps 500 "
        "--lora_rank 16 --mixed_precision fp16"
    )
    config = asked(*command.split(" ")).config
    assert Path(config.output_dir) == Path("meu_lora_out")
    assert config.replace(train_data_dir="", output_dir="./lora_out") == TrainConfig()


@pytest.mark.skipif(os.name == "nt", reason="on Windows the backslash parts folders as it is")
def test_a_name_that_holds_a_backslash_stays(training: str) -> None:
    Path("a\\b").mkdir()
    assert asked("--train_data_dir", "a\\b").config.train_data_dir == str(Path.cwd() / "a\\b")
    assert "c\\d does not exist" in wrong("--train_data_dir", "c\\d")


def test_home_is_understood_where_the_shell_does_not(training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, os.getcwd())
    config = asked("--train_data_dir", "~/Training", "--output_dir", "~/out").config
    assert Path(config.train_data_dir) == Path.cwd() / "Training"
    assert Path(config.output_dir) == Path.cwd() / "out"


def test_a_near_folder_is_suggested(training: str) -> None:
    assert wrong("--train_data_dir", "Trainin").endswith("Did you mean 'Training'?")


def test_a_base_model_folder_becomes_absolute_but_a_name_stays(training: str) -> None:
    Path("model").mkdir()
    Path("starter").mkdir()
    for name, expected in (("model", str(Path.cwd() / "model")), ("starter", "starter"), ("a/b", "a/b")):
        config = asked("--train_data_dir", training, "--pretrained_model_name_or_path", name).config
        assert config.pretrained_model_name_or_path == expected


def test_flags_go_over_the_preset_and_the_recipe_follows_them(pictures: Path) -> None:
    words = ("--preset", "style", "--train_data_dir", str(pictures), "--pretrained_model_name_or_path", "starter")
    usual, given = asked(*words), asked(*words, "--lora_rank", "8", "--train_batch_size", "4")
    assert (given.config.lora_rank, given.config.caption_dropout) == (8, 0.1)
    assert given.config.max_train_steps == round(usual.config.max_train_steps * 8 / 4), "8 pictures stood in a step"
    assert given.resume == "" and "each seen" in str(given.notes[0])
    told = "\n".join(map(str, given.reasons))
    assert "lora_rank = 8  # as given" in told
    assert read_back(told) == {name: value for name, value in given.config.values().items() if name in read_back(told)}


def read_back(told: str) -> dict[str, object]:
    """What --explain prints is a preset."""
    table = tomllib.loads(told)
    return {name: value for name, value in TrainConfig.of(table).values().items() if name in table}


def test_a_loras_own_settings_go_over_a_preset_and_flags_over_them(pictures: Path, tmp_path: Path) -> None:
    file, preset = tmp_path / "old.safetensors", tmp_path / "mine.toml"
    write(file, random_lora({f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_{k}": (96, 96) for k in "qv"}),
          "sd1", {}, "fp16")  # fmt: skip
    preset.write_text('lora_rank = 7\ntarget_modules = ["to_k"]\nseed = 5\n')
    words = ("--train_data_dir", str(pictures), "--init_lora", str(file))
    found = asked(*words, "--preset", str(preset))
    config = found.config
    assert (config.lora_rank, config.lora_alpha, config.target_modules, config.seed) == (2, 3.0, ("to_q", "to_v"), 5)
    assert config.init_lora == str(file) and "Goes on from old.safetensors" in str(found.notes[-1])
    assert asked(*words, "--lora_rank", "4").config.lora_rank == 4
    again = tmp_path / "config.toml"  # of a run: it holds what was settled, and a repeat is the same
    again.write_text(config.replace(lora_rank=4).to_toml())
    assert asked("--preset", str(again)).config == config.replace(lora_rank=4)
    recipe = asked(*words, "--preset", "style", "--pretrained_model_name_or_path", "starter", "--lora_alpha", "1")
    assert (recipe.config.lora_rank, recipe.config.lora_alpha, recipe.config.target_blocks) == (2, 1.0, ("mid",))
    assert any("as the LoRA has it" in str(line) and "lora_rank" in str(line) for line in recipe.reasons)
    assert "--init_lora: There is no" in wrong(*words, "--init_lora", str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize(("name", "word"), [("low_memory", "part of every recipe"), ("fast", "first_look")])
def test_presets_that_were_say_what_they_became(name: str, word: str, training: str) -> None:
    assert word in wrong("--preset", name, "--train_data_dir", training)


def test_a_run_goes_on_as_it_was_whatever_the_recipe_would_be_now(pictures: Path, tmp_path: Path) -> None:
    words = ("--preset", "style", "--train_data_dir", str(pictures), "--pretrained_model_name_or_path", "starter")
    config = asked(*words, "--output_dir", str(tmp_path / "run")).config
    Run(tmp_path / "run").folder.mkdir()
    Run(tmp_path / "run").config_file.write_text(config.replace(lora_rank=7).to_toml(), encoding="utf-8")
    assert asked(*words, "--resume", "--output_dir", str(tmp_path / "run")).config.lora_rank == 7


def test_a_shipped_preset_means_the_shipped_folder_from_anywhere(training: str) -> None:
    told = flags.parse(["--preset", "quickstart"])
    with contextlib.suppress(UserError):  # the pictures are made by a script of their own
        assert request(told).config.train_data_dir == str(ROOT / "Training")
    assert requests._preset_values("quickstart")["train_data_dir"] == str(ROOT / "Training")
    shipped = ROOT / "presets" / "quickstart.toml"
    assert requests._preset_values(str(shipped))["train_data_dir"] == str(ROOT / "Training")


def test_a_preset_of_ones_own_means_the_folder_beside_the_caller(training: str) -> None:
    Path("quickstart.toml").write_text("train_data_dir = 'Training'\nlora_rank = 3\n", encoding="utf-8")
    config = asked("--preset", "quickstart.toml").config
    assert (Path(config.train_data_dir), config.lora_rank) == (Path.cwd() / "Training", 3)


def test_a_wrong_preset_key_is_told_with_its_place(training: str) -> None:
    Path("mine.toml").write_text("lora_rnk = 3\nseed = 'x'\n", encoding="utf-8")
    told = wrong("--preset", "mine.toml", "--train_data_dir", training, "--resolution", "7")
    assert "preset mine.toml: lora_rnk: there is no such setting. Did you mean 'lora_rank'?" in told
    assert "preset mine.toml: seed: needs a whole number" in told
    assert "--resolution: 7 is too low" in told


# --- resuming -----------------------------------------------------------------------------------------------------


def begun(folder: Path, **values: object) -> TrainConfig:
    """A run folder with settings, as a training leaves it."""
    config = TrainConfig.of({"train_data_dir": os.path.abspath("Training"), "output_dir": "elsewhere", **values})
    Run(folder).begin(config)
    (folder / "checkpoints" / "step_0000100").mkdir()
    return config


def test_resume_takes_the_settings_of_the_run(training: str) -> None:
    begun(Path("out"), lora_rank=5, seed=9)
    wanted = asked("--resume", "--output_dir", "out")
    assert (wanted.config.lora_rank, wanted.config.seed, wanted.config.output_dir) == (5, 9, "out")
    assert wanted.resume == "latest" and wanted.notes == ()


def test_resume_looks_in_the_default_folder_and_in_the_presets(training: str) -> None:
    begun(Path("lora_out"), seed=1)
    assert asked("--resume").config.seed == 1
    begun(Path("other"), seed=2)
    Path("mine.toml").write_text("output_dir = 'other'\n", encoding="utf-8")
    assert asked("--resume", "--preset", "mine.toml").config.seed == 2


def test_resume_from_a_checkpoint_or_a_run_folder(training: str) -> None:
    begun(Path("out"))
    at = str(Path("out", "checkpoints", "step_0000100"))
    for words in (["--resume", at], ["--resume", at, "--output_dir", "./out"]):
        wanted = asked(*words)
        assert (wanted.resume, Path(wanted.config.output_dir)) == (at, Path("out"))
    wanted = asked("--resume", "out")
    assert (wanted.resume, wanted.config.output_dir) == ("latest", "out")


def test_resume_refuses_what_is_no_run_and_another_folder(training: str) -> None:
    begun(Path("out"))
    begun(Path("other"))
    assert "there is no run in none" in wrong("--resume", "--output_dir", "none")
    assert "nowhere is no checkpoint" in wrong("--resume", "nowhere")
    at = str(Path("out", "checkpoints", "step_0000100"))
    assert "belongs to the run in out; leave --output_dir out" in wrong("--resume", at, "--output_dir", "other")


def test_what_changes_on_resume_is_told(training: str) -> None:
    begun(Path("out"), max_train_steps=400)
    words = ["--resume", "--output_dir", "out", "--max_train_steps", "600", "--lora_rank", "16"]
    wanted = asked(*words, "--train_data_dir", training)
    assert tuple(map(str, wanted.notes)) == ("Changed for the rest of this run: max_train_steps = 600, was 400.",)
    assert wanted.config.max_train_steps == 600


def test_a_run_whose_pictures_are_gone_is_told(training: str) -> None:
    begun(Path("out"), train_data_dir=os.path.abspath("gone"))
    assert "gone does not exist" in wrong("--resume", "--output_dir", "out")


def test_a_damaged_run_config_is_told_with_its_place(training: str) -> None:
    begun(Path("out"))
    Path("out/config.toml").write_text("lora_rank = 'x'\n", encoding="utf-8")
    told = wrong("--resume", "--output_dir", "out")
    assert f"{Path('out', 'config.toml')}: lora_rank: needs a whole number" in told


def test_the_resume_command_is_one_the_shell_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert resume_command(Path("lora_out")) == "python treino.py --resume --output_dir lora_out"
    monkeypatch.chdir(tmp_path)
    spaced = resume_command(Path("minha LoRA"))
    assert spaced.endswith("treino.py --resume --output_dir 'minha LoRA'" if os.name != "nt" else '"minha LoRA"')
    assert str(ROOT) in spaced


# --- training through the door --------------------------------------------------------------------------------------


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    # A process started in the background of a script may have Ctrl-C ignored; a person's terminal has not.
    posix = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)} if os.name != "nt" else {}
    windows = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32" else {}
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "treino.py"), *words], cwd=cwd, env=environment(), text=True,
        encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE, **posix, **windows,  # type: ignore[call-overload]
    )  # fmt: skip


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_sd1: Path) -> Path:
    from tests.support.tiny import tiny_dataset

    folder = tmp_path_factory.mktemp("ção e espaço")
    tiny_dataset(folder / "Training")
    shutil.copytree(tiny_sd1, folder / "model")
    return folder


def test_ctrl_c_saves_and_says_how_to_go_on_and_that_works(workplace: Path) -> None:
    base = ["--train_data_dir", "Training", "--output_dir", "out 1", "--pretrained_model_name_or_path", "model", *QUICK]
    with started(*base, "--max_train_steps", "100000", "--save_steps", "1000", cwd=workplace) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            if re.match(r"step \d+/", line):
                break
        press_ctrl_c(process)
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in rest + errors
    assert "Stopping: this step is finished, then everything is saved." in rest
    stopped = [line for line in rest.splitlines() if line.startswith("Stopped at step ")]
    assert len(stopped) == 1 and "of 100000" in stopped[0], rest
    assert (workplace / "out 1" / "pytorch_lora_weights.safetensors").is_file()
    command = rest.splitlines()[-1]
    assert command == f"  {_command_from(workplace)}"
    steps = int(stopped[0].split()[3])
    done = door("--resume", "--output_dir", "out 1", "--max_train_steps", str(steps + 3), cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert f"Changed for the rest of this run: max_train_steps = {steps + 3}, was 100000." in done.stdout
    assert "The LoRA is in" in done.stdout


def _command_from(folder: Path) -> str:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return resume_command(Path("out 1"))
    finally:
        os.chdir(before)


def test_a_second_ctrl_c_stops_at_once(workplace: Path) -> None:
    words = ["--train_data_dir", "Training", "--output_dir", "out2", "--pretrained_model_name_or_path", "model", *QUICK]
    # Many sample steps: the first Ctrl-C must have work to wait for, and one batch of a step takes long.
    slow = ["--train_batch_size", "9", "--gradient_accumulation_steps", "1000", "--no_enable_bucket"]
    with started(*words, *slow, cwd=workplace) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("step 0: validation"):
                break
        press_ctrl_c(process)
        for line in process.stdout:
            if line.startswith("Stopping: "):
                break
        time.sleep(ONE_PRESS_S * 2)
        press_ctrl_c(process)
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped at once." in rest and "Traceback" not in rest + errors


def test_pictures_that_are_none_are_exit_code_2(workplace: Path) -> None:
    (workplace / "empty").mkdir()
    done = door("--train_data_dir", "empty", "--pretrained_model_name_or_path", "model", *QUICK, cwd=workplace)
    assert done.returncode == 2
    assert done.stderr.startswith("treino: ") and "Traceback" not in done.stderr


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_failure_is_exit_code_1_with_a_sentence(
    training: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(wanted: Request, *, verbose: bool) -> int:
        raise RuntimeError("the unforeseen")

    monkeypatch.setattr(terminal_training, "run", broken)
    assert main(["--train_data_dir", training]) == 1
    told = capsys.readouterr().err
    assert told == "treino: Something unforeseen went wrong: RuntimeError: the unforeseen. More with --verbose.\n"
    assert main(["--train_data_dir", training, "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_before_the_training_is_130(
    training: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(wanted: Request, *, verbose: bool) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal_training, "run", pressed)
    assert main(["--train_data_dir", training]) == 130
    assert capsys.readouterr().err == "treino: Stopped.\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_other_commands_go_through_the_same_door(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"treino.py {command}" in capsys.readouterr().out
    assert main([command, *(["--no-such"] if command == "check" else [])]) == 2  # which asks for no more than its name
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("treino: ") and "Traceback" not in told.err
