"""Episodes as JSON values, token by token."""

from hypothesis import given
from hypothesis import strategies as st

from agents.trajectory import Trajectory, Turn
from agents.transcripts import TRAIN, episode_record, pieces, unfill


def decode_bytes(token_ids):
    return bytes(token_ids).decode("utf-8", errors="replace")


def trajectory_of(prompt, action, logprobs, advantages=()):
    trajectory = Trajectory(group=1, question_id="q", advantages=list(advantages))
    trajectory.observe(prompt.encode())
    trajectory.act(action.encode(), logprobs)
    start, end = len(prompt.encode()), len(trajectory.token_ids)
    trajectory.turns.append(Turn(action, "answer", False, 1.0, start, end))
    trajectory.outcome = {
        "answer": action,
        "golden_answers": ("a", "b"),
        "exact_match": 1.0,
        "stop_reason": "answered",
    }
    return trajectory


def record_of(trajectory):
    return episode_record(trajectory, 3, TRAIN, "Q: {question}\n", decode_bytes)


def test_numbers_are_told_of_sampled_tokens_only():
    advantages = [0, 0, 0, 0, 0, 0.123456, -2.0]
    tokens = record_of(trajectory_of("Q: x\n", "ab", [-0.00001, -1.23456], advantages))["tokens"]
    assert tokens == {
        "pieces": ["Q", ":", " ", "x", "\n", "a", "b"],
        "mask": "0000011",
        "logprobs": [0.0, -1.2346],
        "advantages": [0.1235, -2.0],
    }


def test_episode_that_nothing_was_learned_from_has_no_advantages():
    assert record_of(trajectory_of("Q: x\n", "ab", [-1.0, -1.0]))["tokens"]["advantages"] is None


def test_prompt_that_was_not_written_down_is_read_from_the_tokens():
    assert record_of(trajectory_of("Q: Zoë?\n", "a", [-1.0]))["question"] == "Zoë?"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_pieces_give_the_text_of_all(text):
    found = pieces(list(text.encode()), decode_bytes)
    assert len(found) == len(text.encode())
    assert "".join(found) == text


@given(st.lists(st.integers(0, 255), max_size=12))
def test_every_token_has_a_piece_whatever_was_sampled(token_ids):
    assert len(pieces(token_ids, decode_bytes)) == len(token_ids)


def test_pieces_of_a_tokenizer_are_the_text(tiny_tokenizer):
    text = "Question: who is Zoë 🜁?\n<search> where</search>"
    ids = tiny_tokenizer(text)["input_ids"]
    assert "".join(pieces(ids, tiny_tokenizer.decode)) == text


def test_space_that_a_decoder_drops_at_the_start_of_a_text_is_kept():
    words = ["Who", " is", " it"]

    def decode(ids):
        return "".join(words[i] for i in ids).lstrip()

    assert pieces([0, 1, 2], decode) == words


def test_unfill_keeps_a_prompt_of_another_template():
    assert unfill("Q: {question}\nA:", "Answer me this: who?") == "Answer me this: who?"
