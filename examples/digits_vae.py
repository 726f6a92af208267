"""A variational autoencoder of handwritten digits: model and network learned by one bound, on scikit-learn's 1,797.

z ~ N(0, I_8), pixel_j | z ~ Bernoulli(logistic(decoder_j(z))), q(z | x) = N(m(x), diag s(x)^2). On 297 images that the
fit has not seen its bounds stand beside two baselines. Digits by E. Alpaydin and C. Kaynak, UCI repository (CC BY 4.0).
"""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.module import eqx_module
from sklearn.datasets import load_digits

import lowerbound as lb

LATENTS, TRAINING = 8, 1500
ENCODER = eqx.nn.MLP(64, 2 * LATENTS, 64, 1, key=jax.random.key(0))
DECODER = eqx.nn.MLP(LATENTS, 64, 64, 1, key=jax.random.key(1))


def model(x):
    decoder = eqx_module("decoder", DECODER)
    with numpyro.plate("images", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENTS), 1).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=jax.vmap(decoder)(z)).to_event(1), obs=x)


def pixels(x, labels, new):
    """log p of new images with independent pixels, given their class or (one class) not."""
    on = np.stack([(x[labels == k].sum(0) + 0.5) / ((labels == k).sum() + 1) for k in np.unique(labels)])
    each = new @ np.log(on).T + (1 - new) @ np.log1p(-on).T
    return jax.nn.logsumexp(each + np.log(np.bincount(labels) / len(labels)), 1).mean()


def show(*rows):
    """Images in the terminal, side by side."""
    for images in rows:
        grey = (np.clip(images, 0, 0.999) * 5).astype(int).reshape(-1, 8, 8)
        print("\n".join("  ".join("".join(2 * " ░▒▓█"[v] for v in image[i]) for image in grey) for i in range(8)), "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore", lb.errors.TrustWarning)  # the verdict is printed
    order, digits = np.random.default_rng(0).permutation(1797), load_digits()
    images, labels = (digits.data[order] > 7).astype(float), digits.target[order]
    x, new = images[:TRAINING], images[TRAINING:]
    vae = lb.fit(model, {"x": x}, family=lb.families.Amortized(ENCODER, inputs="x", site="z"))
    print(vae.verdict)
    print(f"{'independent pixels':32}{pixels(x, np.zeros(TRAINING, int), new):8.2f} nats per new image")
    print(f"{'independent given the label':32}{pixels(x, labels[:TRAINING], new):8.2f}")
    for name, objective in {"ELBO": lb.objectives.ELBO(), "500 draws": lb.objectives.ImportanceWeighted(500)}.items():
        print(f"{'autoencoder, ' + name:32}{vae.encoder.bound(objective, {'x': new}).value / len(new):8.2f}")
    print("\nNew images, the same decoded from the means of q, and six of the model's own:")
    means, own = vae.encoder.encode({"x": new[:6]}).mean["z"], np.random.default_rng(1).normal(size=(6, LATENTS))
    show(new[:6], vae.encoder.decode(means)["x"], vae.encoder.decode(own)["x"])
