"""The examples of translation, at sizes of a test: their data, their models, and one training each in both backends."""

import json
from datetime import date

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from examples import experiment
from examples.heatmap import HeatMap, apart
from examples.translation import dates, descriptions, writing_jax, writing_torch
from examples.translation.corpus import END, SPECIAL, START, UNKNOWN, Pairs, Vocabulary

TEXTS = [
    (f"{kind} for {name}", f"{French} pour {name}")
    for kind, French in (("example files", "fichiers d'exemple"), ("library", "bibliothèque"), ("fast tool", "outil rapide"))
    for name in (
        "Emacs",
        "PostgreSQL",
        "ALTree",
        "X.Org",
        "MIPS64",
        "LaTeX",
        "Linux",
        "OCaml",
        "KDE",
        "Perl",
        "zsh",
        "vim",
        "GTK",
        "Qt",
        "Lua",
        "Ruby",
        "Python",
        "Debian",
        "GNOME",
        "Scheme",
    )
]


@pytest.fixture(scope="module", params=["dates", "descriptions"])
def made(request):
    """Return each example at sizes of a test."""
    if request.param == "dates":
        return dates.dates(dates.TINY)
    return descriptions.descriptions(descriptions.TINY, TEXTS)


@pytest.fixture(scope="module")
def taught(made, tmp_path_factory):
    """Return each example's folder and numbers, once taught."""
    folder = tmp_path_factory.mktemp("examples")
    return folder / made.name, experiment.run_experiment(made, folder)


class TestLaws:
    def test_both_backends_learn_the_same(self, taught):
        _, numbers = taught
        assert numbers["training"]["ok"]

    def test_numbers_and_figures_are_written(self, taught):
        folder, numbers = taught
        assert json.loads((folder / "numbers.json").read_text()) == numbers
        assert (folder / "losses.png").stat().st_size
        assert (folder / "alignment.png").stat().st_size
        assert numbers["scores"].keys() == {"torch", "jax"}
        assert numbers["baseline"]

    def test_what_is_taught_step_by_step_is_what_is_written(self, made):
        # Told what it wrote itself, a model finds each word likeliest that it then wrote.
        recipe = made.recipe
        batch, weights = recipe.batches(0), recipe.weights()
        for backend, module in (("torch", writing_torch), ("jax", writing_jax)):
            model = recipe.models[backend](recipe.architecture)
            model.load_weights(weights)
            tokens, looks = module.write(model, batch["source"], batch["lengths"], batch["said"].shape[1])
            said = np.concatenate([np.full_like(tokens[:, :1], START), tokens[:, :-1]], axis=1)
            assert np.array_equal(_likeliest(backend, model, {**batch, "said": said}), tokens)
            there = np.arange(batch["source"].shape[1]) < batch["lengths"][:, None, None]
            assert not looks[~np.broadcast_to(there, looks.shape)].any()

    def test_nothing_that_is_asked_is_taught(self):
        days = {iso for _, iso in dates.sentences(0, 500, held_out=False)}
        assert not days & {iso for _, iso in dates.sentences(1, 500, held_out=True)}
        given = descriptions.corpus(descriptions.TINY, TEXTS)
        assert given.asked
        assert len(given.asked) + len(given.taught) == len(TEXTS)
        rows = {tuple(row) for row in given.taught.source}
        # Names that were never taught have one number, so only what is known as a whole can be found again.
        asked = given.source([descriptions.tokens(a) for a, _ in given.asked])[0]
        assert not rows & {tuple(row) for row in asked if UNKNOWN not in row}

    def test_what_the_figures_show_is_held_out(self):
        assert dates.is_held_out(dates.DAY)
        assert all(descriptions.is_held_out(source) for source in descriptions.SHOWN)

    def test_an_epoch_shows_every_pair_once(self):
        pairs = Pairs(np.arange(6)[:, None], np.ones(6, np.int32), np.zeros((6, 2), np.int32))
        epoch = [pairs.shuffled(step, 2)["source"] for step in range(3)]
        assert sorted(np.concatenate(epoch).ravel()) == list(range(6))
        assert not np.array_equal(epoch, [pairs.shuffled(step, 2)["source"] for step in range(3, 6)])


class TestValues:
    def test_a_batch_ends_what_it_says(self):
        batch = Pairs(np.array([[7, 8, END]]), np.array([2]), np.array([[5, 6, END, END]], np.int32)).batch(np.array([0]))
        assert batch["source"].tolist() == [[7, 8, END]]
        assert batch["lengths"].tolist() == [2]
        assert batch["said"].tolist() == [[START, 5, 6, END]]
        assert batch["target"].tolist() == [[5, 6, END, END]]
        assert batch["counts"].tolist() == [[1, 1, 1, 0]]

    def test_a_word_without_a_number_is_unknown(self):
        some = Vocabulary.of(["a", "b", "b"], most=4)
        assert some.encode(["b", "a"]).tolist() == [3, UNKNOWN]
        assert some.decode([3, UNKNOWN, END, 3]) == ["b", SPECIAL[UNKNOWN]]

    @pytest.mark.parametrize("locale", dates.LOCALES)
    def test_the_baseline_knows_days_of_july(self, locale):
        day = date(1983, 7, 9)
        assert dates.copied(dates.format_date(day, "full", locale)) == day.isoformat()

    def test_a_score_counts_dates_and_characters(self):
        found = dates.score(["2026-09-10", "2026-09-1"], ["2026-09-10", "2026-08-10"])
        assert found == {"exact %": 50.0, "characters %": 90.0}

    def test_an_unknown_word_is_the_one_that_was_looked_at(self):
        looks = np.array([[0.1, 0.9], [0.9, 0.1]])
        assert descriptions.pointed(HeatMap(looks, ["for", "KDE"], [SPECIAL[UNKNOWN], "pour"], "")) == "KDE pour"

    def test_french_is_put_together_as_it_was_taken_apart(self):
        for text in ("fichiers d'exemple (X.Org)", "boîte à outils, en C++ - aujourd'hui", "Config::Model pour GTK+"):
            assert descriptions.text(descriptions.tokens(text)) == text

    def test_maps_of_two_backends_are_told_apart(self):
        one, other, longer = (HeatMap(np.full((1, 2), w), "ab", text, "") for w, text in ((0.5, "x"), (0.25, "x"), (0.5, "xy")))
        assert apart([one], [other]) == "largest difference of a weight between the two backends: 2.5e-01"
        assert apart([one], [longer]) == "the two backends wrote different texts"


def _likeliest(backend, model, batch):
    """Return the likeliest token everywhere, all that stands before it given."""
    given = (batch[name] for name in ("source", "lengths", "said"))
    if backend == "torch":
        with torch.no_grad():
            return model(*map(torch.from_numpy, given)).argmax(dim=-1).numpy()
    # Compiled as a whole: one operation after the other, each is compiled for itself.
    asked = nnx.jit(lambda model, *arrays: model(*arrays).argmax(axis=-1))
    return np.asarray(asked(model, *map(jnp.asarray, given)))
