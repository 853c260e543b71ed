"""A model folder's README: Hugging Face metadata, what the model is for and not for, its sources and its scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from telme.conversation import Modality

Record = Mapping[str, Any]  # one evaluation, as `Results.to_dict` makes it and `results.json` holds it

_TASK = "Emotion recognition in conversation"

_USE = """\
## What it is for

Research on emotion recognition in conversation, and a first reading of transcripts that people then check. What is
recognised is *expressed, not felt*: how an utterance would strike annotators, in the culture and the acting of the
training data. How often it errs differs from emotion to emotion; see the scores below before relying on one of them.

## What it is not for

- **The workplace and education.** Article 5(1)(f) of the EU AI Act (Regulation 2024/1689) prohibits inferring the
  emotions of people there, except for medical or safety reasons.
- **Decisions about people**: hiring, grading, credit, policing, diagnosis. Recital 44 of the Act gives limited
  reliability and cultural variance as reasons for caution.
- **People who were not told.** Article 50(3), in force since 2 August 2026: whoever deploys an emotion recognition
  system tells the people exposed to it. A notice to start from:

  > Software estimates the emotions expressed in this conversation. It can be wrong. You may object, and ask [contact]
  > what is stored.

The Act's definition (Article 3(39)) concerns *biometric* data, such as voice and face. {biometric}; data protection law
applies all the same. None of this is legal advice.
"""

_BIOMETRIC = {
    True: "This model reads them wherever it is given them",
    False: "Inference from text alone, which is all that this model does, falls outside it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that a model derives from.

    Args:
        name: What people call it.
        about: What it is, in one or more sentences; for a corpus also who speaks, and whether it is acted.
        license: Its licence, if known.
        hub: Its Hugging Face Hub id, if it has one.
    """

    name: str
    about: str
    license: str | None = None
    hub: str | None = None


BACKBONES: Mapping[str, Source] = {
    "sentence-transformers/all-MiniLM-L6-v2": Source(
        name="all-MiniLM-L6-v2",
        about="A sentence encoder of 22 million parameters by the sentence-transformers project.",
        license="Apache-2.0",
        hub="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "FacebookAI/roberta-large": Source(
        name="RoBERTa-large",
        about="A masked language model of 355 million parameters.",
        license="MIT",
        hub="FacebookAI/roberta-large",
    ),
    "facebook/data2vec-audio-base-960h": Source(
        name="data2vec-audio-base-960h",
        about="A speech encoder of 93 million parameters, trained on 960 hours of read English.",
        license="Apache-2.0",
        hub="facebook/data2vec-audio-base-960h",
    ),
    "facebook/timesformer-base-finetuned-k400": Source(
        name="TimeSformer-base",
        about="A video encoder of 121 million parameters, trained to tell the actions of Kinetics-400 apart.",
        license="CC-BY-NC-4.0",
        hub="facebook/timesformer-base-finetuned-k400",
    ),
}

CORPORA: Mapping[str, Source] = {
    "meld": Source(
        name="MELD",
        about="Poria et al. 2019, arXiv 1810.02508: acted dialogues of the television series Friends, in American "
        "English, each utterance labelled by three annotators. None of its text or media comes with this model.",
        license="GPL-3.0",
    ),
    "iemocap": Source(
        name="IEMOCAP",
        about="Busso et al. 2008: dyadic sessions of ten actors, scripted and improvised, in American English, each "
        "turn labelled by three annotators. None of its text or media comes with this model.",
        license="research only, by agreement with the USC SAIL laboratory",
    ),
}


def source_of(name: str, known: Mapping[str, Source], about: str) -> Source:
    """What is known of a backbone or corpus; of others only the name and `about`."""
    return known.get(name, Source(name=name, about=about))


def model_card(
    *,
    name: str,
    license: str | None,  # noqa: A002 -- what the Hub calls it
    languages: Sequence[str],
    bases: Mapping[Modality, Source],
    corpus: Source,
    recipe: Mapping[str, Any],
    results: Sequence[Record],
    other_seeds: Sequence[Record] = (),
) -> str:
    """The card of a model, in Markdown.

    Args:
        license: Hub identifier of the licence of these weights, if known.
        languages: Two-letter codes.
        bases: The pretrained model that was fine-tuned for each modality that it reads.
        corpus: What it was fine-tuned on.
        recipe: All that was chosen.
        results: Evaluations of this model, at least one.
        other_seeds: Evaluations of models that differ from this one in nothing but the seed.
    """
    metadata = ModelCardData(
        model_name=name,
        library_name="telme",
        license=license,
        language=list(languages),
        datasets=[corpus.hub] if corpus.hub else None,
        metrics=["f1"],
        pipeline_tag="text-classification",
        base_model=[base.hub for base in bases.values() if base.hub] or None,
        eval_results=[_eval_result(corpus, record) for record in results],
    )
    return "\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---\n",
            f"# {_plain(name)}\n",
            _introduction(name, bases, corpus, list(results[0]["per_class"])),
            _USE.format(biometric=_BIOMETRIC[len(bases) > 1]),
            "## What it comes from\n",
            *(f"- Base model, {modality}: {_origin(base)}" for modality, base in bases.items()),
            f"- Training data: {_origin(corpus)}\n",
            _scores(results),
            *([_subsets(results)] if len(bases) > 1 else []),
            *([_seeds(results, other_seeds)] if other_seeds else []),
            "## Training procedure\n",
            f"`telme train` with this recipe:\n\n```json\n{json.dumps(recipe, indent=2, ensure_ascii=False)}\n```",
            "",
        ]
    )


def _eval_result(corpus: Source, record: Record) -> EvalResult:
    return EvalResult(
        task_type="text-classification",
        task_name=_TASK,
        dataset_type=corpus.hub or corpus.name,
        dataset_name=corpus.name,
        dataset_split=record["split"],
        metric_type="f1",
        metric_name="weighted F1",
        metric_value=round(record["weighted_f1"], 4),
    )


def _introduction(name: str, bases: Mapping[Modality, Source], corpus: Source, labels: Sequence[str]) -> str:
    several = len(bases) > 1
    reads = (
        f"It reads {', '.join(bases)}, whatever of them there is"
        if several
        else "**Text only**: it neither hears nor sees"
    )
    return (
        "Reads the emotion of every utterance of a conversation from what was said so far and by whom, out of\n"
        f"{', '.join(map(_plain, labels))}. It is {', '.join(_plain(base.name) for base in bases.values())},\n"
        f"fine-tuned on {_plain(corpus.name)} {'by' if several else 'as the teacher of'} "
        f"[TelME](https://arxiv.org/abs/2401.12987).\n{reads}.\n\n"
        "```python\nfrom telme import Conversation, Recognizer\n\n"
        f"recognizer = Recognizer.from_pretrained({json.dumps(name, ensure_ascii=False)})\n"
        'for prediction in recognizer(Conversation.from_file("conversation.json")):\n'
        "    print(prediction.utterance.speaker, prediction.label, prediction.confidence)\n```\n"
    )


def _origin(source: Source) -> str:
    terms = _plain(source.license) if source.license else "licence not recorded: look it up before you share the model"
    return f"{_plain(source.name)} ({terms}). {_plain(source.about)}"


def _scores(results: Sequence[Record]) -> str:
    chosen = results[0]
    rows: list[list[str]] = [
        ["**weighted F1**", *(f"**{_percent(record['weighted_f1'])}**" for record in results)],
        ["95 % interval", *(_interval(record) for record in results)],
        ["macro F1", *(_percent(record["macro_f1"]) for record in results)],
        ["accuracy", *(_percent(record["accuracy"]) for record in results)],
        ["calibration error", *(_percent(record["calibration"]["ece"]) for record in results)],
        *(
            [f"F1 of {_plain(label)}", *(_percent(record["per_class"][label]) for record in results)]
            for label in chosen["per_class"]
        ),
        ["utterances", *(f"{record['utterances']:,}" for record in results)],
    ]
    return (
        f"## Scores\n\nIn percent; seed {chosen['seed']}. The epoch and the temperature were selected on "
        f"{_plain(chosen['selected_on'])}, so scores on {_plain(chosen['selected_on'])} are optimistic.\n"
        "Intervals are bootstrap intervals over dialogues.\n\n"
        + "\n".join(_markdown_table(["", *(_plain(record["split"]) for record in results)], rows))
        + "\n"
    )


def _subsets(results: Sequence[Record]) -> str:
    """Weighted F1 from each subset of the modalities, over the utterances that have one of them, if any has."""
    rows = [
        [
            _plain(subset.replace("+", " + ")),
            *(
                _percent(record["subsets"][subset]["weighted_f1"]) if subset in record["subsets"] else ""
                for record in results
            ),
        ]
        for subset in max((record["subsets"] for record in results), key=len)
    ]
    head = ["weighted F1 from", *(_plain(record["split"]) for record in results)]
    return "\n".join(["With some of the modalities alone:\n", *_markdown_table(head, rows), ""])


def _seeds(results: Sequence[Record], other_seeds: Sequence[Record]) -> str:
    """Weighted F1 of every seed on every split, with mean and standard deviation."""
    lines = ["The same recipe with other seeds; this model is the first of each row.\n"]
    rows = []
    for record in results:
        runs = [record, *(other for other in other_seeds if other["split"] == record["split"])]
        scores = [100 * run["weighted_f1"] for run in runs]
        listed = ", ".join(f"{score:.2f} (seed {run['seed']})" for score, run in zip(scores, runs, strict=True))
        spread = f"{mean(scores):.2f} ± {stdev(scores):.2f}" if len(scores) > 1 else ""
        rows.append([_plain(record["split"]), listed, spread])
    return "\n".join([*lines, *_markdown_table(["split", "weighted F1", "mean ± standard deviation"], rows), ""])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose cells are Markdown already."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _interval(results: Record) -> str:
    low, high = results["weighted_f1_interval"]
    return f"{_percent(low)} to {_percent(high)}"
