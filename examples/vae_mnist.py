"""A variational autoencoder on binarized MNIST, to the likelihoods that papers report.

    python examples/vae_mnist.py --data-root DIR                             # static binarization, k = 1
    python examples/vae_mnist.py --data-root DIR --particles 5               # the importance-weighted bound, k = 5
    python examples/vae_mnist.py --data-root DIR --binarize dynamic --steps 200000

DIR holds MNIST's own files, for ``dynamic``; for ``static`` the fixed draw of Larochelle and Murray (2011), as
``binarized_mnist_train.amat``, ``..._valid.amat`` and ``..._test.amat``, or as one ``binarized_mnist_packed.npz`` of
their bits. Training is on the 60,000 rows that are not for testing, training and validation part together: nothing is
chosen by the latter. The nats of the two are those of different data and can't be compared.

The network is that of Burda, Grosse and Salakhutdinov (2016), 784-200-200-50 with tanh both ways. What it reaches on
the test rows is estimated by importance sampling. They report 86.76 for k = 1 and 84.78 for k = 50 on dynamic
binarization, after 3280 epochs; 89.9 and 87.1 are reported on static binarization.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from pyro_lvm import data, fit, save
from pyro_lvm.artifact import check_out
from pyro_lvm.catalogue import build
from pyro_lvm.evidence import bounds
from pyro_lvm.importance import ImportanceWeightedELBO

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-root", type=Path, required=True, help="folder of the files")
parser.add_argument("--binarize", choices=["static", "dynamic"], default="static")
parser.add_argument("--steps", type=int, default=160_000)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--lr", type=float, default=3e-3, help="first learning rate, which falls along a cosine")
parser.add_argument("--particles", type=int, default=1, help="k of the bound that is trained")
parser.add_argument("--latent-dim", type=int, default=50)
parser.add_argument("--hidden", type=int, nargs="*", default=[200, 200], help="sizes of the hidden layers")
parser.add_argument("--test-rows", type=int, default=10_000, help="test rows to estimate on, at random")
parser.add_argument("--test-particles", type=int, default=500, help="importance samples a test row")
parser.add_argument("--out", type=Path, help="folder to save the run in, for pyro_lvm.load")
parser.add_argument("--checkpoint", type=Path, help="file to store the training in, each minute")
parser.add_argument("--resume", action="store_true", help="go on from --checkpoint")
parser.add_argument("--device", default="auto")
parser.add_argument("--seed", type=int, default=0)


def static_rows(root: Path, part: str) -> torch.Tensor:
    """The fixed draw of binarized MNIST, rows of 784 zeros and ones."""
    packed, text = root / "binarized_mnist_packed.npz", root / f"binarized_mnist_{part}.amat"
    if packed.exists():
        return torch.from_numpy(np.unpackbits(np.load(packed)[part], axis=1)[:, :784]).float()
    if not text.exists():
        parser.error(f"--data-root {root} has neither {packed.name} nor {text.name}: point it at one, or use dynamic")
    return torch.from_numpy(np.loadtxt(text, dtype=np.float32))


options = parser.parse_args()
if options.out is not None:
    check_out(options.out)
if options.binarize == "static":
    train = torch.cat([static_rows(options.data_root, part) for part in ("train", "valid")])
    test = static_rows(options.data_root, "test")
else:
    train = data.GreyRows.of(data.load("mnist", root=options.data_root).rows)
    test = data.binarize(data.load("mnist", root=options.data_root, train=False).rows, seed=options.seed)
print(f"{len(train)} rows, binarized {options.binarize}")

settings = {"latent_dim": options.latent_dim, "hidden": options.hidden, "activation": "tanh", "likelihood": "bernoulli"}
pair = build("vae", {"data_dim": 784, "image_shape": [28, 28]}, options=settings)
k = options.particles
began = time.perf_counter()


def report(state) -> None:
    if state.step % (state.total // 20) < state.total // 100:
        print(f"step {state.step:7d}  {state.elbo:9.3f} nats a row  {time.perf_counter() - began:6.0f} s", flush=True)


result = fit(
    pair.model,
    pair.guide,
    train,
    pair=pair,
    steps=options.steps,
    batch_size=options.batch_size,
    lr=options.lr,
    # Draws all at once: ten small matrix products cost more than one that is ten times as large.
    elbo=ImportanceWeightedELBO(k, vectorize_particles=True, max_plate_nesting=1) if k > 1 else None,
    # Where the rate ends at nothing, the last parameters are as good as an average of them.
    averaging=False,
    device=options.device,
    checkpoint=options.checkpoint,
    resume=options.resume,
    callbacks=[report],
    progress=False,
    seed=options.seed,
)
print(f"trained in {result.seconds:.0f} s on {result.device}, {result.steps / result.seconds:.0f} steps a second")

# The test rows of the static draw are sorted by class: some of them have to be chosen at random.
chosen = np.random.default_rng(options.seed).permutation(len(test))[: options.test_rows]
rows = test[torch.from_numpy(chosen)].to(result.device)
lower, tighter = bounds(pair, rows, options.test_particles)
figures = {"elbo": lower.to_json(), "iwae": tighter.to_json(), "steps": result.steps, "seconds": result.seconds}
for name, bound in (("ELBO", lower), (f"log p(x), {options.test_particles} importance samples", tighter)):
    print(f"{name}: {bound.mean:.2f} +- {bound.row_standard_error:.2f} nats a row over {len(rows)} test rows")
if options.out is not None:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    save(options.out, pair, config={"training": given}, history=result.history, metrics=figures)
    print(f"saved in {options.out}")
