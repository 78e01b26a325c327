#!/usr/bin/env python3
"""Chooses the committed corpus of a target: greedily the inputs that cover most edges.

    fuzz/choose.py TARGET [COUNT=64]    # from fuzz/target/found/TARGET into fuzz/corpus/TARGET

Hand-made inputs (their names hold a dash) stay. Build the target with `cargo fuzz build` first.
"""
import os
import subprocess
import sys
import tempfile

target, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64
here = os.path.dirname(os.path.abspath(__file__))
found = os.path.join(here, "target", "found", target)
corpus = os.path.join(here, "corpus", target)
program = os.path.join(here, "target", "x86_64-unknown-linux-gnu", "release", target)

with tempfile.TemporaryDirectory() as scratch:
    control = os.path.join(scratch, "control")
    merged = os.path.join(scratch, "merged")
    os.mkdir(merged)
    # Edges without counters; a merge that covers sets notes all edges of each input.
    options = ["-set_cover_merge=1", "-use_counters=0", "-max_len=1024"]
    subprocess.run(
        [program, *options, f"-merge_control_file={control}", merged, corpus, found],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    lines = open(control).read().splitlines()

total = int(lines[0])
paths, edges = lines[2:2 + total], {}
for line in lines[2 + total:]:
    word, *numbers = line.split() or [""]
    if word == "FT":
        edges[paths[int(numbers[0])]] = set(numbers[1:])

everything = set().union(*edges.values())
covered, chosen = set(), []
while len(chosen) < count and covered != everything:
    best = max(edges, key=lambda path: (len(edges[path] - covered), -os.path.getsize(path), path))
    chosen.append((os.path.basename(best), open(best, "rb").read()))
    covered |= edges[best]

for name in os.listdir(corpus):
    if "-" not in name:
        os.remove(os.path.join(corpus, name))
for name, data in chosen:
    with open(os.path.join(corpus, name), "wb") as file:
        file.write(data)
print(f"{target}: {len(chosen)} of {total} inputs cover {len(covered)} of {len(everything)} edges")
