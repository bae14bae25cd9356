"""Prints `PINNED` of `keras_nfnet/weights/published.py`, as the hub has it now.

    python tools/pin_hub.py

Needs the Hugging Face hub. Look at what changed before you store it: the
published values never should.
"""

import argparse

import huggingface_hub

from keras_nfnet.weights.published import FILE, REPOSITORIES


def main():
    argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    print("PINNED = {")
    for repo in REPOSITORIES.values():
        metadata = huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(repo, FILE)
        )
        print(
            f'    "{repo}": (\n        "{metadata.commit_hash}",\n'
            f'        "{metadata.etag}",\n    ),'
        )
    print("}")


if __name__ == "__main__":
    main()
