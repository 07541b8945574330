import pytest
import yaml

from sightline import recipe
from sightline.errors import SightlineError
from sightline.objectives import CE, CFCN, Guided

CONFIG = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1}},
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
    "objectives": ["CE", {"class_path": "CFCN", "init_args": {"variant": "F"}}],
    "optimizer": {"lr": "3e-3"},
}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path / "r.yaml"


def guided(path, *overrides):
    made = recipe.build(recipe.read(path, overrides))
    return Guided(made.classifier(), made.objectives, made.data.size)


def test_a_recipe_becomes_objects(path):
    made = recipe.build(
        recipe.read(path, ["objectives.1.weight=2", "data.correlation=0", "seed=5", "objectives.0.smoothing=0.1"])
    )
    assert [type(o) for o in made.objectives] == [CE, CFCN]
    assert made.objectives[0].smoothing == 0.1
    assert made.objectives[1].weights == {"cfcn": 2}
    assert (made.data.correlation, made.seed, made.optimizer.lr) == (0, 5, 3e-3)
    assert guided(path).objectives[1].taps == ("net.block2",)


def test_on_is_a_word(path):
    path.write_text(path.read_text().replace("- CE\n", "- CE\n- {class_path: CGC, init_args: {on: unlabelled}}\n"))
    made = recipe.build(
        recipe.read(path, ["model.weights=", "objectives.2={class_path: CGC, init_args: {on: unlabelled}}"])
    )
    assert [objective.on for objective in made.objectives[1:]] == ["unlabelled", "unlabelled"]


def test_the_resolved_recipe_reads_back_as_itself(path, tmp_path):
    text = recipe.dump(recipe.read(path))
    (tmp_path / "again.yaml").write_text(text)
    assert recipe.dump(recipe.read(tmp_path / "again.yaml")) == text
    assert yaml.safe_load(text)["objectives"][1]["init_args"]["layer"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=1", "Did you mean 'optimizer'"),
        ("optimizer.learning=1", "'learning' is not accepted|option 'learning'"),
        ("objectives.1.wieght=1", "Did you mean 'weight'"),
        ("objectives.1=CFNC", "Did you mean 'CFCN'"),
        ("objectives.1.variant=G", "Got value: G"),
        ("objectives.1.weight=much", r'"weight": Expected a <class .float.> or a .* string: much\. Got value: much$'),
        ("data.size=big", r'"size": Expected a <class .int.> or a <class .tuple.>\. Got value: big$'),
        (
            "training.augment=[RandomHorizontalFlop]",
            r"Expected a .*Flop\. Did you mean .RandomHorizontalFlip",
        ),
        ("training.augment=[{class_path: RandomErasing, init_args: {p: 2}}]", r"recipe: RandomErasing: `p` should be"),
        ("training.augment=[{class_path: Resize, init_args: {size: big}}]", r"Resize': .*\. Got value: big$"),
        ("optimizer.lr=fast", "Got value: fast"),
        ("objectives.7.weight=1", "positions 0 to 1"),
        ("optimizer.lr", "expected key=value"),
        ("training.epochs=0", "at least 1"),
        ("training.workers=-1", "at least 0"),
        ("optimizer.lr=-1", "optimizer.lr is -1"),
        ("schedule.warmup=2", "between 0 and 1"),
        ("seed=-1", "seed is -1"),
        ("optimizer.lr=[", "is not YAML"),
        ("model.spec=sightline:cnnn", "Did you mean 'cnn'"),
        ("model.arguments.fitlers=[1]", "Did you mean 'filters'"),
        ("data.correlaton=1", "Did you mean 'correlation'"),
        ("data={class_path: Swapped, init_args: {data: Habitats, correlation: 1}}", r"write data\.data\.correlation\."),
        ("model.pooling=max", "Did you mean 'pool'\\?$"),
        ("epochs=3", "Write training\\.epochs\\.$"),
        ("objectives.1=cfcn", "Did you mean 'CFCN'"),
        ("model.spec=resnet", "FAMILY:NAME"),
        ("objectives.1.layer=blokc1", "no layer"),
        ("training=[1, 8]", r"training is \[1, 8\]: expected some of the keys epochs, batch_size"),
        ("training=null", "training is None: expected some of the keys epochs"),
        ("optimizer=[adamw]", r"optimizer is \['adamw'\]: expected some of the keys name, lr"),
    ],
)
def test_mistakes_are_named(path, override, message):
    with pytest.raises(SightlineError, match=message):
        guided(path, override)


def test_missing_parts(tmp_path):
    with pytest.raises(SightlineError, match=r"cannot read the recipe .*none.yaml"):
        recipe.read(tmp_path / "none.yaml")
    (tmp_path / "r.yaml").write_text("objectives: [CE]\n")
    with pytest.raises(SightlineError, match=r"required.*data"):
        recipe.read(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("a: [1\n")
    with pytest.raises(SightlineError, match="is not YAML"):
        recipe.read(tmp_path / "r.yaml")


def test_differences():
    assert recipe.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "a.c: 2 -> 3",
        "d: None -> 4",
    ]
