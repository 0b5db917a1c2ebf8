from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from boneage_xai.attribution.integrated_gradients import integrated_gradients
from boneage_xai.attribution.interface import AttributionSettings
from boneage_xai.attribution.prepared import prepare
from boneage_xai.attribution.requirements import check_methods, usable_layers
from boneage_xai.errors import AttributionError, CheckpointError, ConfigError
from boneage_xai.models.averaged import AveragedNetwork, Views
from boneage_xai.models.checkpoint import load_run
from boneage_xai.models.ensemble import load_ensemble, load_model, write_ensemble
from boneage_xai.models.regressor import ArchitectureSettings, BoneAgeRegressor

BOTH = Views()


@pytest.fixture
def cases() -> tuple[Tensor, Tensor]:
    images = torch.rand((2, 1, 48, 48), generator=torch.Generator().manual_seed(1))
    return images, torch.tensor([0.0, 1.0])


def test_it_predicts_the_mean(
    sex_run: Path, image_run: Path, tmp_path: Path, cases: tuple[Tensor, Tensor]
) -> None:
    made = write_ensemble([sex_run, image_run], tmp_path / "both", views=Views(flip=True))
    images, sexes = cases
    one, other = load_run(sex_run).network, load_run(image_run).network
    mirrored = torch.from_numpy(np.ascontiguousarray(images.numpy()[:, :, :, ::-1]))
    with torch.no_grad():
        expected = (
            one(images, sexes)
            + one(mirrored, sexes)
            + other(images, sexes)
            + other(mirrored, sexes)
        ) / 4
        torch.testing.assert_close(made.network(images, sexes), expected)
    assert made.name == "demo, 2 runs, 2 views"
    again = load_model(tmp_path / "both")
    assert again.model_id == made.model_id != load_run(sex_run).model_id
    with torch.no_grad():
        torch.testing.assert_close(again.network(images, sexes), expected)


@pytest.mark.parametrize(("flip", "turn"), [(False, 0), (True, 0), (False, 5), (True, 5)])
def test_as_many_views_as_are_counted(flip: bool, turn: float) -> None:
    views = Views(flip=flip, rotation_degrees=turn)
    assert len(views.of(torch.rand(1, 1, 8, 8))) == views.count


def test_views_are_turned_to_either_side_over_black() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    upright, left, right = Views(rotation_degrees=45).of(torch.ones(1, 1, 5, 5))
    assert torch.equal(upright, torch.ones(1, 1, 5, 5))
    assert left[0, 0, 2, 2] == right[0, 0, 2, 2] == 1
    # A corner is sqrt(8) from the centre, the turned edge 2.5: bilinear weights leave a sixth.
    assert left[0, 0, 0, 0] == pytest.approx(0.1716, abs=1e-3)
    # Turned one way and the other are mirror images of each other.
    turned, back = Views(rotation_degrees=30).of(image + image.flip(-1))[1:]
    torch.testing.assert_close(turned, back.flip(-1))


def test_what_a_member_was_trained_on_is_not_held_out(
    sex_run: Path, image_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(image_run, other)
    splits = load_run(image_run).splits()
    first = splits["split"].eq("validation").idxmax()
    second = splits["split"].eq("train").idxmax()
    splits.loc[first, "split"], splits.loc[second, "split"] = "train", "validation"
    splits.to_csv(other / "splits.csv", index=False)
    made = write_ensemble([sex_run, other], tmp_path / "both", views=BOTH).splits()
    by_digest = made.set_index("pixels_digest")["split"]
    assert by_digest[splits.loc[first, "pixels_digest"]] == "train"
    assert by_digest[splits.loc[second, "pixels_digest"]] == "train"
    assert (by_digest == "validation").sum() == (splits["split"] == "validation").sum() - 1


def test_what_is_refused(sex_run: Path, image_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="several runs, or several views"):
        write_ensemble([sex_run], tmp_path / "a", views=BOTH)
    with pytest.raises(ConfigError, match="found one of them twice"):
        write_ensemble([sex_run, sex_run], tmp_path / "a", views=BOTH)
    with pytest.raises(ConfigError, match="found one in use"):
        write_ensemble([sex_run, image_run], sex_run, views=BOTH)
    other = tmp_path / "other"
    shutil.copytree(image_run, other)
    manifest = json.loads((other / "run.json").read_text())
    manifest["preprocessing"]["size_px"] = 64
    (other / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="expected radiographs prepared as for"):
        write_ensemble([sex_run, other], tmp_path / "a", views=BOTH)
    assert not (tmp_path / "a").exists()


def test_a_member_without_splits_leaves_nothing_behind(
    sex_run: Path, image_run: Path, tmp_path: Path
) -> None:
    bare, out = tmp_path / "bare", tmp_path / "both"
    shutil.copytree(image_run, bare)
    (bare / "splits.csv").unlink()
    out.mkdir()
    with pytest.raises(CheckpointError, match=r"bare/splits\.csv: no such file"):
        write_ensemble([sex_run, bare], out, views=BOTH)
    assert list(out.iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(out, target_is_directory=True)
    (out / ".members.of-a-kill").mkdir()
    assert len(write_ensemble([sex_run, image_run], link, views=BOTH).members) == 2


def test_damage_is_named(sex_run: Path, image_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    write_ensemble([sex_run, image_run], folder, views=BOTH)
    shutil.rmtree(folder / "members" / "1")
    shutil.copytree(sex_run, folder / "members" / "1")
    with pytest.raises(CheckpointError, match=r"members/1: expected model .* as in ensemble.json"):
        load_ensemble(folder)
    shutil.rmtree(folder / "members" / "1")
    with pytest.raises(CheckpointError, match="members/1: expected a run folder"):
        load_ensemble(folder)
    (folder / "ensemble.json").write_text('{"name": "both"}')
    with pytest.raises(CheckpointError, match="members"):
        load_ensemble(folder)


def test_its_layers_are_not_observed(sex_run: Path, tmp_path: Path) -> None:
    network = write_ensemble([sex_run], tmp_path / "views", views=Views(flip=True)).network
    check_methods(network, ["integrated_gradients", "occlusion"])
    assert usable_layers(network, None) == ()
    with pytest.raises(AttributionError, match=r"grad_cam: expected .* found an average"):
        check_methods(network, ["grad_cam"])


def members(n: int) -> list[BoneAgeRegressor]:
    made = []
    for seed in range(n):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = BoneAgeRegressor(
                ArchitectureSettings(backbone="resnet18", hidden=(8,)),
                age_mean_months=120.0,
                age_sd_months=40.0,
            )
        made.append(network.requires_grad_(False).eval())
    return made


def test_its_map_is_the_mean_of_its_members_maps(cases: tuple[Tensor, Tensor]) -> None:
    """Integrated Gradients are linear in the network."""
    images, sexes = cases[0][:1], cases[1][:1]
    both = members(2)
    settings = AttributionSettings(
        precision="float32", map_tolerance_fraction=0.001, max_nodes=1025
    )
    maps = [
        integrated_gradients(network, images, sexes, settings).map_months
        for network in (*both, AveragedNetwork(both, Views()))
    ]
    mean = (maps[0] + maps[1]) / 2
    assert np.abs(maps[2] - mean).sum() < 0.01 * np.abs(mean).sum()


def test_batch_norm_of_every_member_is_folded(cases: tuple[Tensor, Tensor]) -> None:
    network = AveragedNetwork(members(2), Views(flip=True))
    prepared = prepare(network, *cases)
    assert prepared.folded == 40
    with torch.no_grad():
        torch.testing.assert_close(prepared.network(*cases), network(*cases), atol=1e-3, rtol=1e-5)
