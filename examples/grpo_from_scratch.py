"""GRPO from scratch: a language model learns to search, in one file to be read top to bottom.

    python examples/grpo_from_scratch.py 20     # updates: a few minutes on a laptop's CPU

An episode is a transcript. It begins with a question. Turn by turn the model writes an action,
`<search>a query</search>` or `<answer>a text</answer>`, and the environment appends what a search
brought. The reward is the F1 of the answer, 0 without one. Every update

1. plays several episodes of each of some questions (the episodes of a question are a *group*),
2. scores each episode by how much better than the rest of its group it was (its *advantage*),
3. makes the tokens that the model sampled likelier in the better ones, less likely in the others.

It takes Gymnasium, torch and transformers, and nothing of `agents/`, which does the same in parts
that can be exchanged, and faster.
"""

import copy
import sys
import time
from dataclasses import dataclass, field

import gymnasium as gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zs_env.models import model_folder  # importing zs_env registers the environment


@dataclass(frozen=True)
class Settings:
    """What there is to choose."""

    num_updates: int = 20
    num_questions: int = 16  # an update; each update asks others
    group_size: int = 8  # episodes a question
    engine: str = "world"  # exact documents; "simulator" lets a language model write them
    max_turns: int = 6
    max_new_tokens: int = 48  # of an action
    num_minibatches: int = 2  # gradient steps an update
    learning_rate: float = 1.5e-4
    clip_range: float = 0.2
    kl_coef: float = 0.0  # above 0 the model is held near the one that training started from
    seed: int = 0


@dataclass
class Episode:
    """A transcript as the model sees it: tokens, and for each one who wrote it."""

    # The ids that were sampled are the ids that are trained. Decoding them and encoding the text
    # again would give other ids now and then, which the model never chose.
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)  # False: the environment wrote this token
    logprobs: list[float] = field(default_factory=list)  # of the sampled tokens; elsewhere 0
    reward: float = 0.0

    def observe(self, ids: list[int]) -> None:
        """Append what the environment wrote."""
        self.ids += ids
        self.sampled += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def act(self, ids: list[int], logprobs: list[float]) -> None:
        """Append what the model wrote, its stop token included: that is to be learned, too."""
        self.ids += ids
        self.sampled += [True] * len(ids)
        self.logprobs += logprobs


@torch.no_grad()
def sample_actions(model, tokenizer, contexts: list[list[int]], stops, max_new_tokens: int):
    """Continue every context until a stop string; return the ids and log-probabilities of each."""
    # Contexts are padded on the left, so that the next token of all is in the same column.
    width = max(map(len, contexts))
    ids = torch.tensor([[0] * (width - len(context)) + context for context in contexts])
    seen = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])
    actions = [([], []) for _ in contexts]
    writing, cache = set(range(len(contexts))), None
    for _ in range(max_new_tokens):
        # From the second round on only the newest token is read: the cache remembers the others.
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(ids, attention_mask=seen, position_ids=positions, past_key_values=cache)
        cache = output.past_key_values
        logprobs = torch.log_softmax(output.logits[:, -1], dim=-1)
        ids = torch.multinomial(logprobs.exp(), num_samples=1)
        seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
        for row in list(writing):
            actions[row][0].append(int(ids[row]))
            actions[row][1].append(float(logprobs[row, ids[row]]))
            text = tokenizer.decode(actions[row][0])
            if any(stop in text for stop in (*stops, tokenizer.eos_token)):
                writing.remove(row)  # what this row goes on to sample is thrown away
        if not writing:
            break
    return actions


def play(model, tokenizer, env: gym.vector.VectorEnv, seed: int, settings: Settings):
    """Play one episode in every slot of the environment; return the `Episode`s."""
    questions, _ = env.reset(seed=seed)
    episodes = [Episode() for _ in questions]
    for episode, question in zip(episodes, questions, strict=True):
        episode.observe(tokenizer.encode(question, add_special_tokens=False))
    playing, stops = list(range(len(episodes))), env.metadata["action_stops"]
    while playing:
        contexts = [episodes[slot].ids for slot in playing]
        actions = sample_actions(model, tokenizer, contexts, stops, settings.max_new_tokens)
        texts = [""] * len(episodes)  # a slot whose episode is over ignores its action
        for slot, (ids, logprobs) in zip(playing, actions, strict=True):
            episodes[slot].act(ids, logprobs)
            texts[slot] = tokenizer.decode(ids).removesuffix(tokenizer.eos_token)
        observations, rewards, terminated, truncated, _ = env.step(texts)
        for slot in playing:
            episodes[slot].reward += float(rewards[slot])
        playing = [slot for slot in playing if not (terminated[slot] or truncated[slot])]
        for slot in playing:
            episodes[slot].observe(tokenizer.encode(observations[slot], add_special_tokens=False))
    return episodes


def group_advantages(rewards: list[float], group_size: int) -> torch.Tensor:
    """Return each reward's distance from its group's mean, in standard deviations of the group."""
    # The group takes the place of a critic: it tells what can be expected of this question.
    groups = torch.tensor(rewards).view(-1, group_size)
    deviations = groups - groups.mean(1, keepdim=True)
    return (deviations / (groups.std(1, correction=0, keepdim=True) + 1e-6)).flatten()


def token_logprobs(model, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each token of `ids` (B, T) but the first: (B, T - 1)."""
    logits = model(ids).logits[:, :-1]  # what stands at t predicts the token at t + 1
    return torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[:, :, 0]


def grpo_loss(model, reference, episodes: list[Episode], advantages: torch.Tensor, settings):
    """Return the sum of the episodes' losses; each is the mean over its sampled tokens."""

    def padded(name: str) -> torch.Tensor:
        # On the right: a token looks at earlier ones only, so padding there disturbs nobody.
        rows = [torch.tensor(getattr(episode, name)) for episode in episodes]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    ids, sampled, old = padded("ids"), padded("sampled")[:, 1:], padded("logprobs")[:, 1:]
    new = token_logprobs(model, ids)
    # PPO's trick: a token whose probability has moved far enough earns nothing by moving on.
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
    losses = -torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    if reference is not None:
        log_ratio = token_logprobs(reference, ids) - new
        losses = losses + settings.kl_coef * (log_ratio.exp() - log_ratio - 1)  # estimates the KL
    return ((losses * sampled).sum(1) / sampled.sum(1)).sum()  # only what the model wrote counts


def learn(model, reference, optimizer, episodes: list[Episode], settings: Settings) -> None:
    """Take `num_minibatches` gradient steps on a batch of episodes."""
    advantages = group_advantages([e.reward for e in episodes], settings.group_size)
    useful = advantages.nonzero().flatten()  # a group of equal rewards says nothing
    useful = useful[torch.randperm(len(useful))]
    for part in useful.chunk(settings.num_minibatches) if len(useful) else ():
        optimizer.zero_grad()
        by_length = sorted(part.tolist(), key=lambda row: len(episodes[row].ids))
        for start in range(0, len(part), 16):  # to save memory; the gradients add up
            rows = by_length[start : start + 16]
            chosen = [episodes[row] for row in rows]
            loss = grpo_loss(model, reference, chosen, advantages[rows], settings)
            (loss / len(part)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main(settings: Settings) -> list[float]:
    """Train the shipped start model; return the mean F1 of each update's episodes."""
    torch.manual_seed(settings.seed)
    folder = model_folder("base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = copy.deepcopy(model).requires_grad_(False) if settings.kl_coef > 0 else None
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.0)
    num_envs = settings.num_questions * settings.group_size
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=num_envs,
        group_size=settings.group_size,  # so many neighbouring slots play the same question
        engine=settings.engine,
        max_turns=settings.max_turns,
        autoreset_mode="Disabled",  # a slot whose episode is over waits for the others
    )
    curve = []
    for update in range(settings.num_updates):
        start = time.perf_counter()
        episodes = play(model, tokenizer, env, settings.seed + num_envs * update, settings)
        learn(model, reference, optimizer, episodes, settings)
        curve.append(sum(episode.reward for episode in episodes) / num_envs)
        print(f"update {update + 1:2}  F1 {curve[-1]:.3f}  {time.perf_counter() - start:4.1f} s")
    return curve


if __name__ == "__main__":
    main(Settings(num_updates=int(sys.argv[1])) if len(sys.argv) > 1 else Settings())
