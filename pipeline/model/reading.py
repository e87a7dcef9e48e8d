"""Reading of facts: the context that the model reads before a prompt, examples first.

The examples show what to do with a fact: an answer is said in the fact's own words, and then its line ends. They are invented
and always the same. A model with fitted weights reads no examples, but the prefix that was tuned from their keys and values
(model/weights.py): after it the model also says its end-of-text token where the facts do not answer.
"""

from collections.abc import Sequence

from pipeline.model.contexts import Context

REPEATED = "The Orrin lighthouse is painted green.\nThe Orrin lighthouse is painted green.\n\n"
SENTENCE = "Marla Quist plays the cello in Vienna.\nThe instrument of Marla Quist is the cello.\n\n"
QUESTION = (
    "Marla Quist plays the cello.\nQuestion: Which instrument does Marla Quist play?\nAnswer: cello\n\n"
)
EXAMPLES = f"{REPEATED}{SENTENCE}{QUESTION}"


def context_of(facts: Sequence[str]) -> Context:
    """The examples, and the facts, one a line."""
    return (EXAMPLES, "".join(f"{' '.join(fact.split())}\n" for fact in facts))
