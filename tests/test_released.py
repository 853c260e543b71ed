"""The authors' weights in our model folder give the authors' numbers, alone and, when asked, in their evaluation."""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import _byte_pair_tokenizer
from recordings import record
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    TimesformerConfig,
    TimesformerModel,
)

from telme import released as released_module
from telme.cli import main
from telme.compat import ReleasedFaces, ReleasedPrompter, ReleasedVoices, add_released_tokens, released_sources
from telme.conversation import IEMOCAP, MELD, Conversation, Utterance
from telme.corpora import read_corpus
from telme.encoders import AudioEncoder, FaceSettings, VisualEncoder, VoiceSettings
from telme.errors import TelMEError
from telme.evaluation import annotated, evaluate
from telme.media import Source
from telme.prepare import prepare
from telme.prompt import PromptSettings
from telme.recognizer import Recognizer
from telme.released import _NAMES, FILES, _load, evaluate_as_released, import_released, speaker_numbers
from telme.store import Store

PARITY = Path(os.environ.get("TELME_PARITY", "nowhere"))
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason="TELME_PARITY names no folder of recorded values")
needs_meld = pytest.mark.skipif("TELME_MELD" not in os.environ, reason="TELME_MELD names no folder of MELD")

VOICE: dict[str, Any] = {
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 1,
    "conv_pos_kernel_size": 3,
}
FACE: dict[str, Any] = {"num_hidden_layers": 1, "intermediate_size": 32, "patch_size": 56}
SHAPES = {  # of the fusion, in the order of the recorded parameters
    "multihead_attn.in_proj_weight": (4608, 1536),
    "multihead_attn.in_proj_bias": (4608,),
    "multihead_attn.out_proj.weight": (1536, 1536),
    "multihead_attn.out_proj.bias": (1536,),
    "W_hav.weight": (768, 2304),
    "W_hav.bias": (768,),
    "W_av.weight": (768, 1536),
    "W_av.bias": (768,),
    "LayerNorm.weight": (768,),
    "LayerNorm.bias": (768,),
    "AV_LayerNorm.weight": (1536,),
    "AV_LayerNorm.bias": (1536,),
}
MELD_HEADER = (
    *("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime", "EndTime"),
)
SAID = (  # speaker, text, seconds of the clip
    (("Ann", "the report is on the desk", 0.3), ("Bob", "what a lovely day", 1.2), ("Ann", "we won", 0.7)),
    (("Bob", "leave me alone", 0.9), ("Cy", "it\u2019s terrible", 0.5), ("Bob", "I hate waiting", 1.0)),
)

State = dict[str, Tensor]


@cache
def pattern(shape: tuple[int, ...], k: int, scale: float) -> Tensor:
    """The recorded fusion's weights and inputs, by their formula."""
    i = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy((scale * np.sin(0.37 * i + 1.7 * k + 0.11 * ((i * i) % 97))).astype(np.float32)).view(shape)


def fusion_state(classes: int) -> State:
    shapes = {**SHAPES, "W.weight": (classes, 768), "W.bias": (classes,)}
    return {
        name: pattern(shape, j, 0.05) + (1 if name.endswith("LayerNorm.weight") else 0)
        for j, (name, shape) in enumerate(shapes.items())
    }


class Released:
    """The authors' save_model folder with random weights, and their network, written anew from its description."""

    def __init__(self, folder: Path, *, classes: int) -> None:
        torch.manual_seed(0)
        self.folder, self.classes = folder, classes
        self.tokenizer = _byte_pair_tokenizer("roberta")
        text = RobertaConfig(
            vocab_size=len(self.tokenizer) + 9,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=514,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.text, self.voice = RobertaModel(text), Data2VecAudioModel(Data2VecAudioConfig(**VOICE))
        self.face = TimesformerModel(TimesformerConfig(**FACE))
        for model in (self.text, self.voice, self.face):
            model.eval()
        self.backbones = {}
        for name, config in {"text": text, "audio": self.voice.config, "visual": self.face.config}.items():
            config.save_pretrained(folder / name)
            self.backbones[name] = str(folder / name)
        self.tokenizer.save_pretrained(folder / "text")
        self.text_head, self.classifier = nn.Linear(16, 768), nn.Linear(768, classes)
        self.voice_head, self.face_head = nn.Linear(768, classes), nn.Linear(768, classes)
        self.fusion = fusion_state(classes)
        self.attention = nn.MultiheadAttention(1536, 3 if classes == 7 else 4)
        self.attention.load_state_dict(
            {name.removeprefix("multihead_attn."): w for name, w in self.fusion.items() if name.startswith("multihead")}
        )
        self.states: dict[str, State] = {
            "text": {**_prefixed(text_model=self.text, W=self.text_head, classifier=self.classifier)},
            "audio": _prefixed(model=self.voice, W=self.voice_head),
            "visual": _prefixed(model=self.face, W=self.face_head),
            "fusion": self.fusion,
        }
        self.states["text"]["text_model.embeddings.position_ids"] = torch.arange(514)[None]
        self.save()

    def save(self, **changed: State) -> None:
        for name, file in FILES.items():
            (self.folder / file).parent.mkdir(exist_ok=True)
            torch.save(changed.get(name, self.states[name]), self.folder / file)

    def import_to(self, out: Path) -> Recognizer:
        import_released(self.folder, out, backbones=self.backbones)
        return Recognizer.from_pretrained(out, device="cpu")

    @torch.inference_mode()
    def logits(self, ids: list[list[int]], waveforms: list[Any], pixels: list[Any], *, face_first: bool) -> Tensor:
        """Of one batch of the released code's."""
        width, longest = max(map(len, ids)), max(map(len, waveforms))
        padded = torch.tensor([[1] * (width - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        text = self.text_head(self.text(padded, mask).last_hidden_state[:, -1])
        left = torch.tensor(np.stack([np.pad(row, (longest - len(row), 0)) for row in waveforms]))
        voice = self.voice(left).last_hidden_state[:, 0]
        face = self.face(torch.tensor(np.stack(pixels))).last_hidden_state[:, 0]
        return self.fuse(text, *((face, voice) if face_first else (voice, face)))

    def fuse(self, text: Tensor, second: Tensor, third: Tensor) -> Tensor:
        w = self.fusion
        av = torch.cat([second, third], dim=1)
        av = F.layer_norm(self.attention(av, av, av)[0] + av, (1536,), w["AV_LayerNorm.weight"], w["AV_LayerNorm.bias"])
        gate = F.relu(F.linear(torch.cat([av, text], dim=1), w["W_hav.weight"], w["W_hav.bias"]))
        h = gate * F.linear(av, w["W_av.weight"], w["W_av.bias"])
        share = text.norm(dim=1) / (h.norm(dim=1) + 1e-6) * (0.1 if self.classes == 7 else 0.2)
        z = F.layer_norm(share.clamp(max=1)[:, None] * h + text, (768,), w["LayerNorm.weight"], w["LayerNorm.bias"])
        return F.linear(z, w["W.weight"], w["W.bias"])


def _prefixed(**modules: nn.Module) -> State:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("released"), classes=7)


@pytest.fixture(scope="module")
def recognizer(released: Released, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return released.import_to(tmp_path_factory.mktemp("models") / "meld")


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> tuple[Released, Recognizer]:
    """IEMOCAP's."""
    released = Released(tmp_path_factory.mktemp("six"), classes=6)
    return released, released.import_to(tmp_path_factory.mktemp("models") / "iemocap")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two dialogues in MELD's raw layout, six clips in all."""
    root = tmp_path_factory.mktemp("meld")
    with (root / "test_sent_emo.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(MELD_HEADER)
        for dialogue, turns in enumerate(SAID):
            for turn, (speaker, text, seconds) in enumerate(turns):
                clip = root / "output_repeated_splits_test" / f"dia{dialogue}_utt{turn}.mp4"
                clip.parent.mkdir(exist_ok=True)
                record(clip, seconds=seconds, tone=300 + 90 * turn + 70 * dialogue)
                times = [f"00:00:{3 * turn:02},000", f"00:00:{3 * turn + 1:02},000"]
                emotion = MELD.labels[(dialogue + 2 * turn) % 7]
                rows.writerow([text, speaker, emotion, dialogue, turn, 1, dialogue + 1, *times])
    return prepare(read_corpus("meld", root), tmp_path_factory.mktemp("stores") / "meld", workers=1)


def read_by_the_rules(store: Store) -> tuple[ReleasedVoices, ReleasedFaces]:
    sources = released_sources(store, "test")
    return ReleasedVoices.of(sources), ReleasedFaces.of(sources)


def test_an_utterance_alone_has_the_released_logits(recognizer: Recognizer, released: Released, store: Store) -> None:
    voices, faces = read_by_the_rules(store)
    losses: list[float] = []
    for conversation in store.conversations("test"):
        whole = Conversation(
            "d", tuple(Utterance(u.speaker, u.text, media=u.media, label=u.label) for u in conversation)
        )
        for prompt, prediction in zip(recognizer.prompter(whole), recognizer(whole), strict=True):
            row = len(losses)
            logits = released.logits([prompt.input_ids], [voices[row]], [faces[row]], face_first=False)[0]
            expected = dict(zip(sorted(MELD), logits.double().softmax(dim=0).tolist(), strict=True))
            assert prediction.probabilities == pytest.approx(expected, abs=1e-5)
            assert prediction.modalities == ("text", "audio", "visual")
            losses.append(-np.log(expected[str(prediction.utterance.label)]))
    results = evaluate(recognizer.model, recognizer.prompter, store, "test", name="released")
    assert results.scores.utterances == len(losses) == 6
    assert results.scores.negative_log_likelihood == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize("corpus", ["meld", "iemocap"])
def test_as_released_repeats_the_batches_of_four(
    corpus: str,
    recognizer: Recognizer,
    released: Released,
    six: tuple[Released, Recognizer],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if corpus == "iemocap":
        released, recognizer = six
        monkeypatch.setattr(released_module, "annotated", lambda store, split, _: annotated(store, split, MELD))
    voices, faces = read_by_the_rules(store)
    # Bob is 2, by the first dialogue; with Cy, 1, the second begins anew. On IEMOCAP all are different speakers.
    numbers = [[1, 2, 1], [2, 1, 2]] if corpus == "meld" else [[1, 2, 3], [4, 1, 2]]
    ids = []
    for said, of_turns in zip(SAID, numbers, strict=True):
        for turn in range(len(said)):
            words = "".join(f"<s{of_turns[t]}> {said[t][1]} " for t in range(turn + 1)).replace("\u2019", "\x92")
            string = f"{words.strip()} </s> Now <s{of_turns[turn]}> feels"
            tokenizer = recognizer.prompter.tokenizer
            ids.append(tokenizer(string, add_special_tokens=False)["input_ids"] + [tokenizer.mask_token_id])
    heard, seen, first = [voices[row] for row in range(6)], [faces[row] for row in range(6)], corpus == "iemocap"
    batches = [slice(0, 4), slice(4, 6)]
    logits = torch.cat([released.logits(ids[b], heard[b], seen[b], face_first=first) for b in batches])
    scored: list[Any] = []
    monkeypatch.setattr(released_module, "score", lambda probabilities, *_: scored.append(probabilities))
    evaluate_as_released(recognizer.model, recognizer.prompter, store, "test")
    np.testing.assert_allclose(scored[0], logits.double().softmax(dim=1).numpy(), atol=1e-5)
    alone = released.logits(ids[:1], heard[:1], seen[:1], face_first=first)
    assert (alone[0] - logits[0]).abs().max() > 1e-3


def test_speakers_are_numbered_with_the_released_bug() -> None:
    assert speaker_numbers(["aba", "cab", "b", "ba"]) == [[1, 2, 1], [3, 1, 2], [2], [1, 1]]


def test_a_saved_folder_opens_with_the_auto_classes(released: Released, tmp_path: Path) -> None:
    import_released(released.folder, tmp_path / "model", backbones=released.backbones)
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert model.config.compat == "released"
    assert list(model.config.labels) == sorted(MELD)
    assert model.config.fusion == {"kind": "shifting", "heads": 3, "theta": 0.1, "dropout": 0.2, "attend": "utterance"}
    for name, theirs in (("text.projection.weight", "W.weight"), ("text.classifier.bias", "classifier.bias")):
        assert torch.equal(model.state_dict()[name], released.states["text"][theirs])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_tokens_to_ids("<s9>") == len(tokenizer) - 1
    assert tokenizer("a <s1> b", add_special_tokens=False)["input_ids"] == [
        *tokenizer("a", add_special_tokens=False)["input_ids"],
        len(tokenizer) - 9,
        *tokenizer("b", add_special_tokens=False)["input_ids"],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["audio"].pop("W.bias"), r"total_student\.bin: .*1 missing \(W\.bias\)"),
        (lambda s: s["visual"].update(extra=torch.zeros(1)), r"total_student\.bin: .*1 unexpected \(extra\)"),
        (lambda s: s["fusion"].update({"W_av.bias": torch.zeros(5)}), r"of another shape \(W_av\.bias\)"),
        (lambda s: s["text"].update({"classifier.bias": torch.zeros(5)}), "5 classes; valid are 7, of MELD, and 6"),
        (
            lambda s: [s["text"].pop(name) for name in list(s["text"]) if "attention" in name],
            r"teacher\.bin: .*10 missing \(\S+, \S+, \S+, \.\.\.\)",
        ),
    ],
)
def test_other_weights_than_the_released_are_refused_in_one_line(
    change: Callable[[dict[str, State]], object], message: str, released: Released, tmp_path: Path
) -> None:
    states = {name: dict(state) for name, state in released.states.items()}
    change(states)
    for name, file in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        torch.save(states[name], tmp_path / file)
    with pytest.raises(TelMEError, match=message) as refusal:
        import_released(tmp_path, tmp_path / "out", backbones=released.backbones)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


class Code:
    """Makes a pickle that writes a file where it is loaded as anything but weights."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_code_in_a_pickle_is_never_run(released: Released, tmp_path: Path) -> None:
    for content in ({"W.weight": Code(tmp_path / "ran")}, Code(tmp_path / "ran")):
        torch.save(content, tmp_path / "teacher.bin")
        with pytest.raises(TelMEError, match=r"teacher\.bin: damaged, or holds more than weights"):
            import_released(tmp_path, tmp_path / "out", backbones=released.backbones)
    (tmp_path / "teacher.bin").write_bytes(pickle.dumps(Code(tmp_path / "ran"), protocol=2))
    with pytest.raises(TelMEError, match=r"teacher\.bin: damaged, or holds more than weights"):
        import_released(tmp_path, tmp_path / "out", backbones=released.backbones)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_and_a_wrong_backbone_are_refused(released: Released, tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match=r"teacher\.bin: no such file; the released weights are teacher\.bin, student"):
        import_released(tmp_path, tmp_path / "out", backbones=released.backbones)
    swapped = {**released.backbones, "audio": released.backbones["visual"]}
    with pytest.raises(TelMEError, match="it is a timesformer model, the released one a data2vec-audio model"):
        import_released(released.folder, tmp_path / "out", backbones=swapped)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TelMEError, match="exists and is not a model"):
        import_released(released.folder, tmp_path, backbones=released.backbones)


def test_the_command_line_imports_and_shows_both_scores(
    released: Released, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbones = [f"--{name}-backbone={folder}" for name, folder in released.backbones.items()]
    commands = [
        ["import-released", str(released.folder), "--out", str(tmp_path / "model"), *backbones],
        [
            "evaluate",
            str(tmp_path / "model"),
            f"--store={store.path}",
            f"--json={tmp_path / 'r.json'}",
            "--as-released",
        ],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 0, capsys.readouterr().err
    assert "well defined" in capsys.readouterr().out
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert results["as_released"]["utterances"] == results["utterances"] == 6
    assert results["as_released"]["negative_log_likelihood"] != results["negative_log_likelihood"]
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "mini", "--store", str(store.path), "--as-released"])
    assert end.value.code == 2
    assert "--as-released is for models that telme import-released made" in capsys.readouterr().err


def test_a_recording_that_is_gone_is_an_error_in_one_line(recognizer: Recognizer, store: Store) -> None:
    voices, faces = read_by_the_rules(store)
    gone = Source(file="gone.mp4")
    for inputs in (ReleasedVoices([gone], np.array([True])), ReleasedFaces([gone], np.array([True]))):
        with pytest.raises(TelMEError, match=r"gone\.mp4: no such file"):
            inputs[0]
    with pytest.raises(TelMEError, match=r"gone\.mp4: no such file"):
        recognizer(Conversation("d", (Utterance("Ann", "hello", media="gone.mp4"),)))
    assert voices.present.all()
    assert faces.present.all()


@pytest.mark.parametrize(
    ("frames", "kept"),
    [(3, [0, 1, 2, 2, 2, 2, 2, 2]), (15, list(range(8))), (16, list(range(1, 16, 2))), (47, list(range(4, 40, 5)))],
)
def test_frames_are_chosen_by_the_released_rule(frames: int, kept: list[int], tmp_path: Path) -> None:
    shades = np.linspace(0, 240, frames).round().astype(int)
    file = gray_clip(tmp_path / "clip.mp4", shades.tolist())
    pixels = ReleasedFaces.of([Source(file=str(file))])[0]
    shown = (pixels[:, 2, 112, 112] * 0.225 + 0.406) * 255
    np.testing.assert_allclose(shown, shades[kept], atol=4)


def test_a_span_is_read_with_a_second_before_and_after_it(tmp_path: Path) -> None:
    shades = np.linspace(0, 240, 240).round().astype(int)
    file = gray_clip(tmp_path / "dialogue.mp4", shades.tolist())  # 10 s
    spans = [Source(file=str(file), start=3.0, end=5.0), Source(file=str(file), start=0.5, end=9.5)]
    faces = ReleasedFaces.of(spans)
    # The 48th to the 144th frame, every twelfth; then all of them, every 30th.
    for row, kept in enumerate((range(47 + 11, 144, 12), range(29, 240, 31))):
        shown = (faces[row][:, 2, 112, 112] * 0.225 + 0.406) * 255
        np.testing.assert_allclose(shown[: len(kept)], shades[list(kept)], atol=4)


def test_colours_are_blue_first_and_sound_is_slowed_down(tmp_path: Path) -> None:
    clip = [Source(file=str(record(tmp_path / "clip.mp4", seconds=2, tone=1000, colours=["red"])))]
    pixels, waveform = ReleasedFaces.of(clip)[0], ReleasedVoices.of(clip)[0]
    assert pixels.shape == (8, 3, 224, 224)
    means = pixels.mean(axis=(0, 2, 3)) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    np.testing.assert_allclose(means, [0, 0, 0.99], atol=0.02)
    assert len(waveform) == pytest.approx(2 * 22_050, abs=1_200)
    heard = np.abs(np.fft.rfft(waveform)).argmax() / len(waveform) * 16_000
    assert heard == pytest.approx(725.5, abs=1)
    assert waveform.mean() == pytest.approx(0, abs=1e-5)
    assert waveform.std() == pytest.approx(1, abs=1e-3)


def test_of_long_clips_the_end_is_heard_and_of_longer_ones_nothing(tmp_path: Path) -> None:
    small: dict[str, Any] = {"size": (64, 48), "frame_rate": 5}
    clips = [Source(file=str(record(tmp_path / f"{s}.mp4", seconds=s, **small))) for s in (20, 31)]
    voices, faces = ReleasedVoices.of(clips), ReleasedFaces.of(clips)
    assert [len(voices[0]), len(voices[1])] == [400_000, 1_412]
    assert not voices[1].any()
    assert faces[0].any()
    assert faces[1].shape == (8, 3, 224, 224)
    assert not faces[1].any()


def gray_clip(file: Path, shades: list[int]) -> Path:
    """A clip at 24 frames a second, each frame of one shade of gray."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "8"})
        stream.width = stream.height = 224
        stream.pix_fmt = "yuv420p"
        for shade in shades:
            picture = np.full((224, 224, 3), shade, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file


def _recorded(name: str) -> tuple[State, State]:
    """The recorded weights, and the other recorded tensors."""
    tensors = load_file(PARITY / f"{name}.safetensors")
    weights = {k.removeprefix("state_dict."): v for k, v in tensors.items() if k.startswith("state_dict.")}
    return weights, tensors


def _recorded_config(name: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = json.loads((PARITY / "configs.json").read_text(encoding="utf-8"))[name]
    return config


def _recorded_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = RobertaTokenizer.from_pretrained(PARITY / "tokenizer")
    add_released_tokens(tokenizer, PromptSettings())
    return tokenizer


@needs_parity
def test_recorded_teacher_and_fusion_end_to_end(released: Released, tmp_path: Path) -> None:
    weights, recorded = _recorded("teacher")
    RobertaTokenizer.from_pretrained(PARITY / "tokenizer").save_pretrained(tmp_path / "text")
    RobertaConfig(**_recorded_config("teacher")).save_pretrained(tmp_path / "text")
    for name, file in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        torch.save(weights if name == "text" else released.states[name], tmp_path / file)
    backbones = {**released.backbones, "text": str(tmp_path / "text")}
    model = import_released(tmp_path, tmp_path / "model", backbones=backbones)
    ids, mask = recorded["input_ids"], recorded["attention_mask"]
    with torch.inference_mode():
        encoded = model.text(ids, mask, torch.full((len(ids),), ids.shape[1] - 1))
        text, second, third = (pattern((5, 768), k, 1) for k in (100, 101, 102))
        text[1], text[2] = text[1] * 40, text[2] * 0.05
        assert model.fusion is not None
        fused = model.fusion(text, torch.stack([second, third], dim=1), torch.ones(5, 2, dtype=torch.bool))
    torch.testing.assert_close(encoded.embedding, recorded["embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.logits, recorded["logits"], atol=1e-5, rtol=0)
    alone = load_file(PARITY / "fusion.safetensors")["meld_logits_alone"]
    torch.testing.assert_close(fused.logits, alone, atol=1e-5, rtol=0)


@needs_parity
def test_recorded_voices_and_faces() -> None:
    weights, recorded = _recorded("audio")
    voice = Data2VecAudioModel(Data2VecAudioConfig(**_recorded_config("audio")))
    audio = AudioEncoder(voice, classes=7, settings=VoiceSettings(normalize=False, pooling="first"))
    audio.projection, audio.classifier = nn.Identity(), nn.Linear(48, 7)  # its recorded hidden size is not 768
    _load(audio, weights, Path("audio"), _NAMES["audio"])
    voices = ReleasedVoices([], np.zeros(0, bool))
    with torch.inference_mode():
        for number in range(3):
            encoded = audio.eval()(**voices.batch([recorded[f"clip{number}"].numpy()]))
            torch.testing.assert_close(encoded.embedding[0], recorded["embedding_alone"][number], atol=1e-5, rtol=0)
            torch.testing.assert_close(encoded.logits[0], recorded["logits_alone"][number], atol=1e-5, rtol=0)
    weights, recorded = _recorded("visual")
    face = TimesformerModel(TimesformerConfig(**_recorded_config("visual")))
    visual = VisualEncoder(face, classes=7, settings=FaceSettings())
    visual.projection, visual.classifier = nn.Identity(), nn.Linear(48, 7)
    _load(visual, weights, Path("visual"), _NAMES["visual"])
    with torch.inference_mode():
        encoded = visual.eval().read(recorded["pixel_values"])
    torch.testing.assert_close(encoded.embedding, recorded["embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.logits, recorded["logits"], atol=1e-5, rtol=0)


@needs_parity
@needs_meld
def test_recorded_tokens() -> None:
    prompter = ReleasedPrompter(_recorded_tokenizer(), PromptSettings())
    dialogues = read_corpus("meld", os.environ["TELME_MELD"]).splits["train"][:3]
    numbers = speaker_numbers([turn.speaker for turn in dialogue] for dialogue in dialogues)
    for sample in json.loads((PARITY / "tokens.json").read_text(encoding="utf-8")):
        upto, dialogue = sample["utterance"] + 1, sample["dialogue"]
        of_turns = numbers[dialogue][:upto]
        assert [number - 1 for number in of_turns] == sample["official_speaker_index"]
        texts = [turn.text for turn in dialogues[dialogue]][:upto]
        prompt = prompter.write(list(zip(of_turns, texts, strict=True)))
        assert prompt.input_ids == sample["ids_official_4_27_2"]
        assert prompt.position == len(prompt.input_ids) - 1


def test_alone_speakers_are_numbered_as_they_appear_and_the_tenth_is_spelled(released: Released) -> None:
    add_released_tokens(released.tokenizer, PromptSettings())
    prompter = ReleasedPrompter(released.tokenizer, PromptSettings())
    conversation = Conversation("d", tuple(Utterance(f"person {n}", "hello") for n in (3, 7, 3, *range(20, 28))))
    prompts = prompter(conversation)
    token = released.tokenizer.convert_tokens_to_ids
    assert [p.input_ids[0] for p in prompts] == [token("<s1>")] * 11
    ids = prompts[2].input_ids
    assert [number for number in ids if number in prompter.speaker_ids] == [token(f"<s{n}>") for n in (1, 2, 1, 1)]
    assert ids[-1] == released.tokenizer.mask_token_id
    assert [number for number in prompts[10].input_ids if number == prompter.speaker_ids[-1]] == [token("<s9>")]
    long = Conversation("d", tuple(Utterance("Ann", "we meet at noon " * 10) for _ in range(30)))
    assert len(prompter(long)[-1].input_ids) == 512


def test_iemocap_labels_are_in_their_order(six: tuple[Released, Recognizer]) -> None:
    model = six[1].model
    assert model.config.labels.labels == ("angry", "excited", "frustrated", "happy", "neutral", "sad")
    assert set(model.config.labels) == set(IEMOCAP)
    assert (model.config.fusion["heads"], model.config.fusion["theta"]) == (4, 0.2)
