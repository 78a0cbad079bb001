"""The recipe of the transducer that comes with the package: pieces, language models, loss, training."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import zeroq_asr as zq

RECIPE = Path(__file__).parents[1] / "examples" / "train_demo"
NAMES = ("recipe", "pieces", "arpa", "rnnt_loss", "train", "train_lm", "train_transducer", "integer_lm")
TEXTS = [row.text for row in zq.read_manifest(zq.embedded_files().test)]
HELD_OUT = [row.text for row in zq.read_manifest(zq.embedded_files().calibration)]


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    """The modules of the recipe, which import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        modules: dict[str, ModuleType] = {name: __import__(name) for name in NAMES}
        yield SimpleNamespace(**modules)
    for name in NAMES:
        sys.modules.pop(name)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder as `prepare.py` writes it, of noise in place of speech."""
    generator = np.random.default_rng(0)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for name, texts in (("training", TEXTS), ("held-out", HELD_OUT)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"text": text, "frames": int(generator.integers(50, 90))} for text in texts]
        (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        frames = sum(row["frames"] for row in rows)
        np.save(folder / "features.npy", generator.standard_normal((frames, 64)).astype(np.float16))
    return tmp_path


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


# the loss


def spelled_out(scores: torch.Tensor, targets: list[int]) -> float:
    """−log of the sum over every path through scores [T, U + 1, V + 1], each multiplied out."""
    probabilities = scores.softmax(-1)
    frames, steps = len(scores), len(scores) - 1 + len(targets)
    total = 0.0
    for said in itertools.combinations(range(steps), len(targets)):
        frame = place = 0
        path = 1.0
        for step in range(steps):
            if step in said:
                path *= probabilities[frame, place, targets[place]].item()
                place += 1
            else:
                path *= probabilities[frame, place, -1].item()
                frame += 1
        total += path * probabilities[frames - 1, len(targets), -1].item()
    return -math.log(total)


def lattice(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of four utterances with at most five frames and three targets."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(4, 5, 4, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 5, (4, 3), generator=generator)
    return scores, targets, torch.tensor([5, 1, 3, 4]), torch.tensor([3, 2, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_all_paths(demo: SimpleNamespace, seed: int) -> None:
    scores, targets, lengths, sizes = lattice(seed)
    found = demo.rnnt_loss.rnnt_loss(scores, targets, lengths, sizes)
    for one, score, target, length, size in zip(found, scores, targets, lengths, sizes, strict=True):
        expected = spelled_out(score[:length, : size + 1], target[:size].tolist())
        assert one.item() == pytest.approx(expected, rel=1e-12)
        # what lies behind the ends is not read
        alone = demo.rnnt_loss.rnnt_loss(
            score[None, :length, : size + 1], target[None, :size], length[None], size[None]
        )
        assert one.item() == pytest.approx(alone.item(), rel=1e-12)
    single = demo.rnnt_loss.rnnt_loss(scores.float(), targets, lengths, sizes)
    torch.testing.assert_close(single.double(), found, rtol=1e-5, atol=1e-5)


def test_probabilities_of_all_texts_sum_to_one(demo: SimpleNamespace) -> None:
    # of two frames, each of which may say one token of two at most: the last place's blank is certain
    scores = torch.randn(1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[:, :, 2, :2] = -torch.inf
    total = 0.0
    for size in range(3):
        for text in itertools.product(range(2), repeat=size):
            targets = torch.tensor([[*text, *[0] * (2 - size)]])
            loss = demo.rnnt_loss.rnnt_loss(scores, targets, torch.tensor([2]), torch.tensor([size]))
            total += math.exp(-loss.item())
    assert total == pytest.approx(1, rel=1e-12)


def test_the_gradient_of_the_loss(demo: SimpleNamespace) -> None:
    scores, targets, lengths, sizes = lattice()
    scores.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda scores: demo.rnnt_loss.rnnt_loss(scores, targets, lengths, sizes), (scores,)
    )
    demo.rnnt_loss.rnnt_loss(scores, targets, lengths, sizes).sum().backward()
    assert scores.grad is not None
    for gradient, length, size in zip(scores.grad, lengths, sizes, strict=True):
        assert not gradient[length:].any()
        assert not gradient[:, size + 1 :].any()
        # a softmax does not change where all its scores move together
        torch.testing.assert_close(gradient.sum(-1), torch.zeros(5, 4, dtype=torch.float64))


def test_long_lattices_stay_finite(demo: SimpleNamespace) -> None:
    scores = (10 * torch.randn(2, 300, 31, 8)).requires_grad_()
    lengths, sizes = torch.tensor([300, 40]), torch.tensor([30, 0])
    loss = demo.rnnt_loss.rnnt_loss(scores, torch.zeros(2, 30, dtype=torch.int64), lengths, sizes)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": torch.full((4, 3), 5)}, "targets are 5 to 5, not 0 to 4"),
        ({"lengths": torch.tensor([5, 0, 3, 4])}, "lengths are 0 to 5, not 1 to 5"),
        ({"sizes": torch.tensor([3, 4, 0, 1])}, "sizes are 0 to 4, not 0 to 3"),
        ({"targets": torch.zeros(4, 2, dtype=torch.int64)}, r"are \[\[4, 2\], \[4\], \[4\]\]"),
        ({"scores": torch.zeros(4, 5, 6)}, "want 4 and 2 axes"),
    ],
)
def test_what_the_loss_refuses(demo: SimpleNamespace, changed: dict[str, torch.Tensor], message: str) -> None:
    operands = dict(zip(("scores", "targets", "lengths", "sizes"), lattice(), strict=True))
    with pytest.raises(ValueError, match=message):
        demo.rnnt_loss.rnnt_loss(**{**operands, **changed})


# pieces and language models


def test_pieces_are_of_the_texts_alone_and_spell_them(demo: SimpleNamespace, work: Path) -> None:
    found = demo.pieces.of_work(work)
    assert len(found.tokenizer.tokens) == demo.pieces.PIECES
    assert found.tokenizer.tokens[0] == "<unk>"
    assert found.tokenizer.kind == "sentencepiece"
    for text in TEXTS:
        assert found.tokenizer.decode(found.ids(text)) == text
    assert demo.pieces.learn(TEXTS).tokenizer == found.tokenizer
    # learnt once
    (work / "texts.txt").write_text("others\n")
    assert demo.pieces.of_work(work).tokenizer == found.tokenizer
    with pytest.raises(ValueError, match="no pieces spell 'Ω'"):
        found.ids("Ω")


SENTENCES = [["a", "b", "a", "c"], ["a", "b"], ["b", "b", "a"], ["a", "b", "a"], []]


@pytest.mark.parametrize("gain", [-math.inf, 0.5])
def test_ngrams_of_every_history_sum_to_one(demo: SimpleNamespace, gain: float) -> None:
    grams = demo.arpa.estimate(SENTENCES, ["a", "b", "c", "d"], 3, gain)
    for history in itertools.product(("<s>", "a", "b", "c", "d"), repeat=2):
        total = sum(10 ** grams.score(piece, history) for piece in ("a", "b", "c", "d", "</s>"))
        assert total == pytest.approx(1, abs=1e-9)


def test_ngrams_are_those_of_witten_and_bell(demo: SimpleNamespace) -> None:
    grams = demo.arpa.estimate(SENTENCES, ["a", "b", "c", "d"], 2)
    # twelve pieces and five ends, of four kinds
    counts = [piece for sentence in SENTENCES for piece in (*sentence, "</s>")]
    of_a = (counts.count("a") + 4 / 5) / (len(counts) + 4)
    assert 10 ** grams.score("a", ()) == pytest.approx(of_a)
    # behind b: a three times, b once, the end once
    assert 10 ** grams.score("a", ("b",)) == pytest.approx((3 + 3 * of_a) / (5 + 3))
    # never behind b: what is left, shared as single pieces are
    left = 3 / (5 + 3)
    of_c = (counts.count("c") + 4 / 5) / (len(counts) + 4)
    assert 10 ** grams.score("c", ("b",)) == pytest.approx(left * of_c)
    assert grams.sentence([]) == pytest.approx(grams.score("</s>", ("<s>",)))


def test_ngrams_that_say_little_are_left_out(demo: SimpleNamespace) -> None:
    whole = demo.arpa.estimate(SENTENCES, ["a", "b", "c", "d"], 3)
    grams = demo.arpa.estimate(SENTENCES, ["a", "b", "c", "d"], 3, 0.5)
    kept, lost = grams.probabilities, whole.probabilities.keys() - grams.probabilities.keys()
    assert kept.items() <= whole.probabilities.items()
    # four times, and much more often than b in general; once, and no more than c in general
    assert ("a", "b") in kept
    assert lost
    for gram in lost:
        times = sum(
            tuple(padded[n : n + len(gram)]) == gram
            for padded in (["<s>", *sentence, "</s>"] for sentence in SENTENCES)
            for n in range(len(padded))
        )
        nats = math.log(10) * (whole.probabilities[gram] - whole.score(gram[-1], gram[1:-1]))
        assert times * nats < 0.5
    # every history has its own entry
    assert all(gram[:-1] in grams.probabilities for gram in grams.probabilities if len(gram) > 1)


def test_the_file_of_ngrams(demo: SimpleNamespace) -> None:
    grams = demo.arpa.estimate(SENTENCES, ["a", "b", "c", "d"], 3)
    lines = grams.text().splitlines()
    assert lines[:2] == ["\\data\\", "ngram 1=6"]
    assert lines[-1] == "\\end\\"
    for n in (1, 2, 3):
        start = lines.index(f"\\{n}-grams:") + 1
        rows = [line.split("\t") for line in lines[start : lines.index("", start)]]
        assert f"ngram {n}={len(rows)}" in lines
        for probability, gram, *weight in rows:
            key = tuple(gram.split(" "))
            assert len(key) == n
            assert float(probability) == pytest.approx(grams.probabilities[key], abs=1e-4)
            assert [float(w) for w in weight] == pytest.approx(
                [grams.weights[key]] if key in grams.weights else [], abs=1e-4
            )


def test_batches_hold_every_text_once(demo: SimpleNamespace) -> None:
    texts = [[n % 5] * (1 + n % 7) for n in range(50)]
    seen = []
    for labels, following in demo.train_lm.batches(texts, 8, 9, np.random.default_rng(0)):
        assert labels.shape == following.shape
        for read, said in zip(labels.T.tolist(), following.T.tolist(), strict=True):
            size = said.index(9)
            assert set(said[size + 1 :]) <= {-100}
            assert read[: size + 1] == [9, *said[:size]]
            seen.append(said[:size])
    assert sorted(seen) == sorted(texts)


def test_language_models_learn(
    demo: SimpleNamespace, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(demo.train_lm, monkeypatch, "--work", str(work), "--minutes", "0.05", "--batch-texts", "20")
    said = capsys.readouterr().out
    assert "LSTM: perplexity of a held-out piece" in said
    assert "n-grams: perplexity of a held-out piece" in said
    spelled = demo.pieces.of_work(work)
    tokens, end = spelled.tokenizer.tokens, spelled.tokenizer.blank_id
    network = demo.train_lm.load(work / "language-model.pt", tokens)
    texts = [spelled.ids(text) for text in TEXTS]
    # a uniform one has 129
    assert demo.train_lm.perplexity(network, texts, end) < 80
    with pytest.raises(ValueError, match="is of other pieces"):
        demo.train_lm.load(work / "language-model.pt", tokens[::-1])


def test_language_models_become_integers(
    demo: SimpleNamespace, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(demo.train_lm, monkeypatch, "--work", str(work), "--minutes", "0.05", "--batch-texts", "20")
    capsys.readouterr()
    run(demo.integer_lm, monkeypatch, "--work", str(work), "--seeds", "0")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    real = float(rows[0][1])
    assert [row[0] for row in rows] == ["float", "labels:", "labels:", "labels:"]
    # what the bits of a hidden state and of the gates cost
    found = [float(row[-1].strip("()")) for row in rows[1:]]
    assert found == pytest.approx([real] * 3, rel=0.02)
    assert found != [real] * 3
    assert gzip.decompress((work / "pieces.arpa.gz").read_bytes()).startswith(b"\\data\\\nngram 1=130\n")


# the transducer


def test_what_ships_is_of_this_recipe(demo: SimpleNamespace) -> None:
    shipped = zq.embedded_model("transducer")
    recipe = demo.recipe.transducer(shipped.tokenizer)
    assert shipped.tokenizer.tokens[0] == "<unk>"
    assert (shipped.config, shipped.frontend, shipped.name) == (recipe.config, recipe.frontend, recipe.name)
    assert shipped.network.state_dict().keys() == recipe.network.state_dict().keys()


@pytest.fixture(scope="module")
def model(demo: SimpleNamespace) -> zq.TransducerModel:
    torch.manual_seed(0)
    return demo.recipe.transducer(demo.pieces.learn(TEXTS).tokenizer)


def test_scores_of_whole_texts_are_those_of_single_steps(
    demo: SimpleNamespace, model: zq.TransducerModel
) -> None:
    network = model.network
    with torch.no_grad():
        encoded, targets = torch.randn(2, 3, 96), torch.tensor([[5, 9], [7, 0]])
        found = demo.train_transducer.scores(network, encoded, targets, 0.0)
        state, label = network.predictor.start(2), torch.full((2,), 128)
        for place in range(3):
            predicted, state = network.predictor(label, state)
            for frame in range(3):
                step = network.joiner(network.encoder.projection(encoded[:, frame]), predicted)
                torch.testing.assert_close(found[:, frame, place], step, rtol=1e-4, atol=1e-5)
            if place < 2:
                label = targets[:, place]


def test_encodings_are_made_once_and_are_the_encoder_s(
    demo: SimpleNamespace, work: Path, model: zq.TransducerModel
) -> None:
    spelled = demo.pieces.of_work(work)
    speech = demo.train_transducer.SpokenPieces(work / "held-out", spelled)
    body = model.network.encoder.body
    made = demo.train_transducer.Encodings(body, speech, work / "held-out")
    rows = np.array([3, 1, 8])
    found, lengths = made.batch(rows)
    with torch.no_grad():
        expected, ends = body(*speech.batch(rows))
    assert lengths.tolist() == ends.tolist()
    for one, other, length in zip(found, expected, ends, strict=True):
        torch.testing.assert_close(one[:length], other[:length], rtol=2e-3, atol=2e-3)
        assert not one[length:].any()
    files = {path: path.stat().st_mtime_ns for path in (work / "held-out").iterdir()}
    again = demo.train_transducer.Encodings(body, speech, work / "held-out")
    torch.testing.assert_close(again.batch(rows), (found, lengths), rtol=0, atol=0)
    assert files == {path: path.stat().st_mtime_ns for path in (work / "held-out").iterdir()}
    # what the encodings say is what the features say
    errors = demo.train_transducer.evaluate(model, speech, None)
    assert demo.train_transducer.evaluate(model, speech, made) == pytest.approx(errors, abs=2)
    # another encoder's are others
    other = demo.recipe.transducer(spelled.tokenizer).network.encoder.body
    demo.train_transducer.Encodings(other, speech, work / "held-out")
    assert len(list((work / "held-out").glob("encodings-*.npz"))) == 2


def test_targets_and_their_sizes(demo: SimpleNamespace, work: Path) -> None:
    spelled = demo.pieces.of_work(work)
    speech = demo.train_transducer.SpokenPieces(work / "training", spelled)
    targets, sizes = speech.labels(np.array([4, 0]))
    for row, target, size in zip((4, 0), targets.tolist(), sizes.tolist(), strict=True):
        assert spelled.tokenizer.decode(target[:size]) == TEXTS[row]
        assert set(target[size:]) <= {0}


def test_silences_are_short(demo: SimpleNamespace) -> None:
    lengths = torch.tensor([100, 3])
    found = demo.train_transducer.silence(torch.ones(2, 100, 4), lengths, np.random.default_rng(0))
    assert 0 < (found[0] == 0).float().mean() <= 0.12
    assert (found[1, 3:] == 1).all()


def test_a_transducer_learns_what_it_hears(
    demo: SimpleNamespace, work: Path, model: zq.TransducerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # four utterances by heart: every part of the training has to do its work, in 200 steps on any machine
    clock = itertools.count()
    monkeypatch.setattr(
        demo.train_transducer, "time", SimpleNamespace(process_time=lambda: float(next(clock)))
    )
    torch.manual_seed(0)
    speech = demo.train_transducer.SpokenPieces(work / "held-out", demo.pieces.of_work(work))
    speech.texts, speech.ids, speech.frames = speech.texts[:4], speech.ids[:4], speech.frames[:4]
    learner = demo.recipe.transducer(model.tokenizer)
    learner.network.encoder.body.requires_grad_(False)
    encodings = demo.train_transducer.Encodings(learner.network.encoder.body, speech, work / "held-out")
    options = argparse.Namespace(seed=0, batch_seconds=9, evaluate_every=9, threads=1, dropout=0.0, work=work)
    judge = lambda: demo.train_transducer.evaluate(learner, speech, encodings)  # noqa: E731
    before = judge()
    demo.train_transducer.learn(
        learner, speech, lambda rows, _: encodings.batch(rows), judge, 200 / 60, 5e-3, options
    )
    assert judge()[0] < 20 < before[0]


@pytest.mark.parametrize("tuned", [False, True])
def test_training_writes_a_checkpoint(
    demo: SimpleNamespace, work: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool
) -> None:
    network = demo.train_lm.LanguageModel(demo.pieces.PIECES)
    spelled = demo.pieces.of_work(work)
    demo.train_lm.save(network, work / "language-model.pt", spelled.tokenizer.tokens)
    minutes = ("--minutes", "0.02", "--tune-minutes", "0.02" if tuned else "0")
    run(demo.train_transducer, monkeypatch, "--work", str(work), *minutes, "--batch-seconds", "5")
    made = zq.load_model(work / "transducer.pt")
    assert isinstance(made, zq.TransducerModel)
    assert made.config == demo.recipe.transducer(spelled.tokenizer).config
    assert made.tokenizer == spelled.tokenizer
    assert (work / "transducer.pt").stat().st_size <= 4_000_000
    encoder = zq.load_checkpoint(zq.embedded_files().conformer).network.state_dict()
    same = [
        torch.equal(tensor, encoder[f"encoder.{name}"])
        for name, tensor in made.network.encoder.body.state_dict().items()
        if tensor.is_floating_point()
    ]
    assert all(same) != tuned
    # one more cycle begins where the last one ended
    monkeypatch.setattr(demo.train_transducer, "learn", lambda model, *_: resumed.append(model))
    resumed: list[zq.TransducerModel] = []
    run(demo.train_transducer, monkeypatch, "--work", str(work), "--resume", *minutes)
    ours, theirs = resumed[0].network.state_dict(), made.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
