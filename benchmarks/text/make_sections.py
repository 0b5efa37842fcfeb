"""Descriptions of Debian's packages as mean word embeddings, as tables for the recipe `sections`.

    python benchmarks/text/make_sections.py --output DATA    # on Debian; DATA/sections-train.parquet, -test.parquet

The text is the short description of a package, and the class is its section, such as games or python. Each word has an
embedding of 128 numbers: its row in the singular value decomposition of the TF-IDF matrix of the training texts, which
uses no labels. A text is the mean embedding of its words, weighted by TF-IDF. Texts that occur twice count once, and
sections with fewer than 400 texts are left out.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from aradals._internal.files import atomic_path

NUM_DIMENSIONS, LEAST_TEXTS, NUM_TRAIN = 128, 400, 10_000


def read_packages() -> list[tuple[str, str]]:
    """Read description and section of every package that apt knows, each description once, in alphabetical order."""
    listing = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for package in listing.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in package.splitlines() if ": " in line and line[0] != " ")
        if {"Description", "Section"} <= fields.keys():
            found.setdefault(fields["Description"], fields["Section"])
    return sorted(found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path())
    given = parser.parse_args()
    packages = read_packages()
    count = Counter(section for _, section in packages)
    kept = [package for package in packages if count[package[1]] >= LEAST_TEXTS]
    kept = [kept[row] for row in np.random.default_rng(0).permutation(len(kept))]
    texts = [text for text, _ in kept]
    embed = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, norm="l1"), TruncatedSVD(NUM_DIMENSIONS, random_state=0)
    )
    embed.fit(texts[:NUM_TRAIN])
    values = embed.transform(texts).astype(np.float32)
    first = np.sort(np.unique(values, axis=0, return_index=True)[1])  # texts of the same known words are one text
    given.output.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", first[:NUM_TRAIN]), ("test", first[NUM_TRAIN : 2 * NUM_TRAIN])):
        table = pd.DataFrame(values[rows], columns=[f"dimension_{i}" for i in range(NUM_DIMENSIONS)])
        table["label"] = [kept[row][1] for row in rows]
        with atomic_path(given.output / f"sections-{split}.parquet") as temporary:
            table.to_parquet(temporary)
    print(f"{len(packages)} texts, {len(kept)} in {len({section for _, section in kept})} sections")


if __name__ == "__main__":
    main()
