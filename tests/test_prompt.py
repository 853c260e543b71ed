"""The input of every family of models: its exact tokens, what a length limit takes away, and that it is past only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError
from telme.prompt import Prompt, Prompter, PromptSettings, add_speaker_tokens

SETTINGS = PromptSettings(max_length=64)
BEGIN = {"bert": "[CLS]", "roberta": "<s>", "xlm-roberta": "<s>", "gpt2": "<|endoftext|>"}
SEPARATOR = {"bert": "[SEP]", "roberta": "</s>", "xlm-roberta": "</s>", "gpt2": "<|endoftext|>"}
READ_OUT = {"bert": "[MASK] [SEP]", "roberta": "<mask> </s>", "xlm-roberta": "<mask> </s>", "gpt2": ""}

conversations = st.builds(
    lambda turns: said(*turns),
    st.lists(
        st.tuples(st.sampled_from("ABCDEFGHIJKL"), st.text(min_size=1, max_size=40).filter(str.strip)),
        min_size=1,
        max_size=12,
    ),
)


def said(*turns: tuple[str, str]) -> Conversation:
    return Conversation("made up", tuple(Utterance(speaker, text) for speaker, text in turns))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str, backbone_folder: dict[str, str]) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(backbone_folder[family])
    add_speaker_tokens(tokenizer, SETTINGS)
    return tokenizer


@pytest.fixture(scope="module")
def prompter(tokenizer: PreTrainedTokenizerBase) -> Prompter:
    return Prompter(tokenizer, SETTINGS)


def tokens(prompter: Prompter, prompt: Prompt) -> list[str]:
    return list(prompter.tokenizer.convert_ids_to_tokens(prompt.input_ids))


def speakers(prompter: Prompter, conversation: Conversation) -> list[str]:
    """The speaker token of each utterance: the one in its prompt's tail, which is its last."""
    return [
        [token for token in tokens(prompter, prompt) if token in prompter.settings.speaker_tokens][-1]
        for prompt in prompter(conversation)
    ]


class TestExactTokens:
    def test_of_every_utterance_of_a_conversation(self, family: str, prompter: Prompter) -> None:
        first, second = prompter(said(("Ann", "it is a table"), ("Bob", "I love it")))
        begin, separator, read_out = BEGIN[family], SEPARATOR[family], READ_OUT[family]
        assert tokens(prompter, first) == (
            f"{begin} <s1> Ġit Ġis Ġa Ġtable {separator} ĠNow <s1> Ġfeels {read_out}".split()
        )
        assert tokens(prompter, second) == (
            f"{begin} <s1> Ġit Ġis Ġa Ġtable <s2> ĠI Ġlove Ġit {separator} ĠNow <s2> Ġfeels {read_out}".split()
        )

    def test_the_mask_is_read_or_a_decoders_last_token(self, family: str, prompter: Prompter) -> None:
        for prompt in prompter(said(("Ann", "it is a table"), ("Bob", "I love it"))):
            if family == "gpt2":
                assert prompt.position == len(prompt.input_ids) - 1
            else:
                assert prompt.input_ids[prompt.position] == prompter.tokenizer.mask_token_id

    def test_without_a_prompt(self, family: str, tokenizer: PreTrainedTokenizerBase) -> None:
        plain = Prompter(tokenizer, replace(SETTINGS, template=None))
        _, second = plain(said(("Ann", "it is a table"), ("Bob", "I love it")))
        assert tokens(plain, second) == (
            f"{BEGIN[family]} <s1> Ġit Ġis Ġa Ġtable <s2> ĠI Ġlove Ġit {SEPARATOR[family]}".split()
        )
        assert second.position == (len(second.input_ids) - 1 if family == "gpt2" else 0)

    def test_with_a_prompt_of_your_own(self, family: str, tokenizer: PreTrainedTokenizerBase) -> None:
        mine = Prompter(tokenizer, replace(SETTINGS, template="{speaker} feels {mask}"))
        (prompt,) = mine(said(("Ann", "it is a table")))
        assert tokens(mine, prompt) == (
            f"{BEGIN[family]} <s1> Ġit Ġis Ġa Ġtable {SEPARATOR[family]} <s1> Ġfeels {READ_OUT[family]}".split()
        )

    def test_an_utterance_without_words_is_its_speaker(self, family: str, prompter: Prompter) -> None:
        (prompt,) = prompter(Conversation("silent", (Utterance("Ann", " ", media="ann.wav"),)))
        assert tokens(prompter, prompt) == (
            f"{BEGIN[family]} <s1> {SEPARATOR[family]} ĠNow <s1> Ġfeels {READ_OUT[family]}".split()
        )

    # Joined as text, "<s1> also" loses its blank in some versions of transformers and not in others.
    def test_a_turn_is_words_that_follow_a_blank(self, prompter: Prompter) -> None:
        expected = prompter.tokenizer.tokenize(" also I love it")
        assert expected[0].startswith("Ġ")
        for text in ("also I love it", " also I love it", "\talso I love it \n"):
            first, second = prompter(said(("Ann", text), ("Bob", text)))
            assert tokens(prompter, first)[1 : 2 + len(expected)] == ["<s1>", *expected]
            assert tokens(prompter, second)[1 : 3 + 2 * len(expected)] == ["<s1>", *expected, "<s2>", *expected]

    def test_a_transcript_cannot_forge_a_token(self, tokenizer: PreTrainedTokenizerBase) -> None:
        roomy = Prompter(tokenizer, replace(SETTINGS, max_length=1000))
        special = tokenizer.all_special_tokens
        honest, forged = (
            [token for token in tokens(roomy, prompt) if token in special]
            for text in ("it is", f"it is {' '.join(special)}")
            for prompt in roomy(said(("Ann", text)))
        )
        assert forged == honest


class TestSpeakers:
    def test_are_numbered_by_first_appearance_afresh_in_every_conversation(self, prompter: Prompter) -> None:
        assert speakers(prompter, said(("Cy", "a"), ("Ann", "b"), ("Cy", "c"), ("Bob", "d"), ("Ann", "e"))) == [
            "<s1>",
            "<s2>",
            "<s1>",
            "<s3>",
            "<s2>",
        ]
        assert speakers(prompter, said(("Bob", "a"), ("Cy", "b"))) == ["<s1>", "<s2>"]

    def test_the_tenth_and_later_share_the_last_token(self, prompter: Prompter) -> None:
        turns = [(name, "a") for name in "ABCDEFGHIJKAJI"]
        assert speakers(prompter, said(*turns))[8:] == ["<s9>", "<s9>", "<s9>", "<s1>", "<s9>", "<s9>"]

    def test_the_tenth_is_refused_and_the_first_nine_go_on(self, tokenizer: PreTrainedTokenizerBase) -> None:
        strict = Prompter(tokenizer, replace(SETTINGS, further_speakers="refuse"))
        nine = [(name, "a") for name in "ABCDEFGHI"]
        context = strict.context()
        for speaker, text in nine:
            context.add(Utterance(speaker, text))
        for _ in range(2):
            with pytest.raises(TelMEError, match=r"'Jo' is speaker 10; .* at most 9 speakers"):
                context.add(Utterance("Jo", "hello"))
        with pytest.raises(TelMEError, match="'Kim' is speaker 10"):  # Jo was never let in
            context.add(Utterance("Kim", "hello"))
        assert context.add(Utterance("C", "b")) == strict(said(*nine, ("C", "b")))[-1]

    def test_fewer_tokens_in_the_recipe(self, tokenizer: PreTrainedTokenizerBase) -> None:
        two = Prompter(tokenizer, replace(SETTINGS, speakers=2))
        assert speakers(two, said(("A", "a"), ("B", "b"), ("C", "c"))) == ["<s1>", "<s2>", "<s2>"]

    def test_tokens_that_were_not_added_are_missed_by_name(self, backbone_folder: dict[str, str], family: str) -> None:
        with pytest.raises(TelMEError, match="lacks <s1>, <s2>; add_speaker_tokens"):
            Prompter(AutoTokenizer.from_pretrained(backbone_folder[family]), replace(SETTINGS, speakers=2))

    def test_adding_them_twice_adds_them_once(self, tokenizer: PreTrainedTokenizerBase) -> None:
        size = len(tokenizer)
        add_speaker_tokens(tokenizer, SETTINGS)
        assert len(tokenizer) == size
        assert tokenizer.tokenize("<s1><s9>") == ["<s1>", "<s9>"]


class TestLengthLimit:
    @pytest.mark.parametrize("template", ["Now {speaker} feels {mask}", None])
    @settings(max_examples=50)
    @given(conversation=conversations, max_length=st.integers(32, 200))
    def test_only_the_oldest_tokens_make_room(
        self,
        family: str,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        conversation: Conversation,
        max_length: int,
    ) -> None:
        tail = len(SEPARATOR[family].split()) + (len(f"Now s feels {READ_OUT[family]}".split()) if template else 0)
        whole = Prompter(tokenizer, PromptSettings(template=template, max_length=100_000))(conversation)
        short = Prompter(tokenizer, PromptSettings(template=template, max_length=max_length))(conversation)
        for all_of_it, prompt in zip(whole, short, strict=True):
            full, kept = all_of_it.input_ids, prompt.input_ids
            assert len(kept) == min(max_length, len(full))
            assert kept[0] == full[0]
            assert kept[1:] == full[len(full) - len(kept) + 1 :]
            assert len(kept) > 1 + tail
            if template or family == "gpt2":
                assert len(kept) - prompt.position == len(full) - all_of_it.position
            else:
                assert prompt.position == 0

    def test_an_utterance_longer_than_the_limit_loses_its_beginning(self, family: str, prompter: Prompter) -> None:
        (prompt,) = prompter(said(("Ann", f"leave {'it ' * 500}table")))
        tail = f"Ġtable {SEPARATOR[family]} ĠNow <s1> Ġfeels {READ_OUT[family]}".split()
        assert len(prompt.input_ids) == SETTINGS.max_length
        assert tokens(prompter, prompt) == [
            BEGIN[family],
            *["Ġit"] * (SETTINGS.max_length - 1 - len(tail)),
            *tail,
        ]

    def test_a_template_longer_than_the_limit_never_gives_a_longer_input(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        wordy = PromptSettings(template=f"{'Now ' * 60}{{speaker}} feels {{mask}}", max_length=32)
        with pytest.raises(TelMEError, match="max_length"):
            Prompter(tokenizer, wordy)


class TestPastOnly:
    @settings(max_examples=50)
    @given(conversation=conversations, data=st.data())
    def test_what_follows_changes_nothing(self, prompter: Prompter, conversation: Conversation, data: Any) -> None:
        turns = data.draw(st.integers(1, len(conversation)))
        assert prompter(Conversation("cut", conversation.utterances[:turns])) == prompter(conversation)[:turns]

    def test_a_context_keeps_no_more_than_a_model_reads(self, prompter: Prompter) -> None:
        context = prompter.context()
        for turn in range(300):
            prompt = context.add(Utterance(f"speaker {turn}", "we meet at noon"))
        assert len(prompt.input_ids) == SETTINGS.max_length
        held = [len(value) for value in vars(context).values() if hasattr(value, "__len__")]
        assert max(held) <= SETTINGS.max_length


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "Now feels {mask}"}, "it must hold {speaker} once"),
        ({"template": "{speaker} and {speaker} feel {mask}"}, "it must hold {speaker} once"),
        ({"template": "{mask} is how {speaker} feels"}, "at its end, {mask}"),
        ({"template": "Now {speaker} feels {mask}."}, "at its end, {mask}"),
        ({"template": ""}, "template ''"),
        ({"speakers": 0}, "speakers is 0"),
        ({"max_length": 31}, "max_length is 31; "),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TelMEError) as caught:
        PromptSettings(**fields)
    assert message in str(caught.value)


def test_the_smallest_settings_are_valid() -> None:
    assert PromptSettings(speakers=1, max_length=32).speaker_tokens == ["<s1>"]


def test_the_papers_nine_speakers() -> None:
    assert PromptSettings().speaker_tokens == [f"<s{number}>" for number in range(1, 10)]
