"""How fast captions become edit prompts: ``python -m benchmarks.bench_swap`` (one core, tagging included).

"First" is a round in which every word is met for the first time, "again" the rounds after it, as in a large corpus.
The captions of the hand-tagged set are varied and few; each of the miniature's words comes often.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.report import print_provenance, print_rows
from miniature.world import World
from tasks.swap.swapper import Swap, SwapConfig, Swapper
from tasks.swap.words import count_terms

CAPTIONS = Path(__file__).parents[1] / "tests" / "assets" / "tagged_captions.jsonl"


def main() -> None:
    """Time the start, counting words, and swapping under three configurations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=4000)
    options = parser.parse_args()
    print_provenance("word swap")
    start_s = _seconds(lambda: count_terms(["a dog"]))
    world = World(0)
    sets = {
        "miniature": [world.scene(place).caption for place in range(options.captions)],
        "tagged by hand": [json.loads(line)["caption"] for line in CAPTIONS.read_text(encoding="utf-8").splitlines()],
    }
    rows = [("start (NLTK, WordNet)", "", f"{start_s:.1f} s", "", "")]
    for name, captions in sets.items():
        counted: list[Mapping[str, int]] = []
        count_s = _seconds(lambda captions=captions, counted=counted: counted.append(count_terms(captions)))
        rows.append(("counting words", name, f"{len(captions) / count_s:.0f}", "", ""))
        configs = {
            "paper: any word, first sense, siblings": SwapConfig(sense_policy="first", max_levels=1),
            "any word of WordNet": SwapConfig(),
            "words of the corpus": SwapConfig(min_corpus_count=1),
        }
        rows += [(what, name, *_swap_rates(captions, config, counted[0])) for what, config in configs.items()]
    print_rows(("what", "captions", "first, per CPU s", "again, per CPU s", "swapped"), rows)


def _swap_rates(captions: Sequence[str], config: SwapConfig, vocabulary: Mapping[str, int]) -> tuple[str, str, str]:
    swapper = Swapper(config, vocabulary)
    swapped = 0

    def once() -> None:
        nonlocal swapped
        swapped = sum(isinstance(swapper(caption, seed=place), Swap) for place, caption in enumerate(captions))

    first_s = _seconds(once)
    repeats = max(1, 4000 // len(captions))
    again_s = _seconds(lambda: [once() for _ in range(repeats)]) / repeats
    count = len(captions)
    return f"{count / first_s:.0f}", f"{count / again_s:.0f}", f"{swapped / count:.1%}"


def _seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    main()
