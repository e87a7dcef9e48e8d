"""Reading of facts: the context that the model reads before a prompt, examples first.

The examples show what to do with a fact: an answer is said in the fact's own words, and then its line ends. They are invented
and always the same; the facts and prompts after them may be in any language.
"""

from collections.abc import Sequence

from pipeline.model.contexts import Context
from pipeline.text.clauses import ends_in_label

_REPEATED = "The Orrin lighthouse is painted green.\nThe Orrin lighthouse is painted green.\n\n"
QUESTION_EXAMPLES = (
    f"{_REPEATED}Marla Quist plays the cello.\n"
    "Question: Which instrument does Marla Quist play?\nAnswer: cello\n\n"
)
"""Read before the facts for a prompt that ends in a label ("Question: …\\nAnswer:")."""
SENTENCE_EXAMPLES = (
    f"{_REPEATED}Marla Quist plays the cello in Vienna.\nThe instrument of Marla Quist is the cello.\n\n"
)
"""Read before the facts for any other prompt."""


def context_of(prompt: str, facts: Sequence[str]) -> Context:
    """The examples that suit the prompt, and the facts, one a line."""
    examples = QUESTION_EXAMPLES if ends_in_label(prompt) else SENTENCE_EXAMPLES
    return (examples, "".join(f"{' '.join(fact.split())}\n" for fact in facts))
