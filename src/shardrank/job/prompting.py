"""The prompt settings of a job: its own, or the model's where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from shardrank.config import Config, PromptStyle
from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.engine.windows import Windows


@dataclass(frozen=True, slots=True)
class Prompting:
    """What is used and fingerprinted; decided in one place, so that the two cannot differ."""

    style: PromptStyle
    instruction: str
    max_tokens: int
    windows: Windows | None

    def builder(self, tokenizer: Tokenizer) -> PromptBuilder:
        """Builds prompts of these settings. Raises ConfigError if there can be none."""
        return PromptBuilder(
            tokenizer,
            self.style,
            self.instruction,
            self.max_tokens,
            whole=self.windows is not None,
        )

    @staticmethod
    def of(config: Config, model: PreparedModel) -> Prompting:
        """The job's settings over the model's."""
        prompt = config.prompt
        return Prompting(
            style=prompt.style or model.prompt_style,
            instruction=model.instruction if prompt.instruction is None else prompt.instruction,
            max_tokens=prompt.max_tokens or model.max_tokens,
            windows=Windows(prompt.window_tokens, prompt.window_stride)
            if prompt.long_documents == "windows"
            else None,
        )
