"""What requests bring: the bodies of studies, trials, views and models. What is not named here is refused.

Shapes, kinds and sizes are looked at here, so that the API's description is complete. Whether it makes sense is for
the nouns and the verbs to say: nothing is checked twice.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, StrictInt, model_validator

from automl.core import StudyRecord, StudyState
from automl.declaration import Confirm, Space, StudySpec
from automl.errors import InvalidStudy

#: The largest whole number that the tables' ids, and their counters, can hold.
MAX_ID, MAX_COUNT = 2**63 - 1, 2**31 - 1

# Numbers as JSON has them: neither texts of numbers nor true.
Whole = Annotated[StrictInt, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(max_length=2000)]
Scalar = StrictBool | StrictInt | Number | str | None
Params = Annotated[dict[str, Scalar], Field(max_length=1000)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Direction = Literal["min", "max"]


class Body(BaseModel):
    """Knows its fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def example(**fields: Any) -> ConfigDict:
    """What the API's description shows."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


# -- studies ---------------------------------------------------------------------------------------------------------


class FloatBody(Body):
    kind: Literal["float"]
    low: Number
    high: Number
    log: StrictBool = False
    step: Number | None = None
    when: dict[str, Scalar | list[Scalar]] = {}
    prior: Number | tuple[Number, Number] | None = None


class IntBody(Body):
    kind: Literal["int"]
    low: StrictInt
    high: StrictInt
    log: StrictBool = False
    step: StrictInt = 1
    when: dict[str, Scalar | list[Scalar]] = {}
    prior: Number | tuple[Number, Number] | None = None


class ChoiceBody(Body):
    kind: Literal["choice"]
    choices: Annotated[list[Scalar], Field(min_length=1, max_length=1000)]
    when: dict[str, Scalar | list[Scalar]] = {}
    prior: Annotated[list[Number] | None, Field(description="A weight for each of the choices, in their order.")] = None

    @model_validator(mode="after")
    def _one_weight_each(self) -> ChoiceBody:
        if self.prior is not None and len(self.prior) != len(self.choices):
            raise ValueError(f"prior has {len(self.prior)} weights for {len(self.choices)} choices; give one for each")
        return self


class BudgetBody(Body):
    trials: Whole | None = None
    minutes: Number | None = None
    stop_when: Literal["converged"] | None = None
    margin: Number | None = None


class FidelityBody(Body):
    name: Text
    min: Whole = 1
    max: Whole = 1


class ResourcesBody(Body):
    cpus: Whole = 1
    gpus: Whole = 0
    timeout_s: Number | None = None
    memory_gb: Number | None = None


class BoundBody(Body):
    """Where a metric has to stay: one of the two, or both."""

    model_config = example(max=20.0)

    min: Number | None = None
    max: Number | None = None

    def to_json(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class ConfirmBody(Body):
    top: Whole = Confirm.top
    trials: Whole = Confirm.trials
    sure: Number = Confirm.sure

    def confirm(self) -> Confirm:
        return Confirm(**self.model_dump())


class CandidateBody(Body):
    number: Whole
    params: Params
    value: float


class RaceBody(Body):
    candidates: list[CandidateBody]
    sure: Number
    held_out: StrictBool


class SpecBody(Body):
    """A study's declaration, see `automl.Study`."""

    name: Text
    space: dict[str, Annotated[FloatBody | IntBody | ChoiceBody, Field(discriminator="kind")]] | None = None
    metrics: Annotated[dict[str, Direction], Field(max_length=100)]
    budget: BudgetBody
    fidelity: FidelityBody | None = None
    resources: ResourcesBody = ResourcesBody()
    sampler: Text = "auto"
    pruner: Text = "auto"
    seed: StrictInt = 0
    retries: Whole = 0
    cost: Text | None = None
    constraints: dict[str, BoundBody] = {}
    transfer: Literal["auto"] | list[Text] | None = None
    gates: dict[str, BoundBody] = {}
    confirm: ConfirmBody | None = None
    race: RaceBody | None = None
    held_out: StrictBool = False

    def spec(self) -> StudySpec:
        """Raises `InvalidStudy`."""
        data = self.model_dump()
        for name, parameter in (data["space"] or {}).items():
            _check_alone(name, parameter)
        for name in ("constraints", "gates"):
            data[name] = {metric: bound.to_json() for metric, bound in getattr(self, name).items()}
        return StudySpec.from_json(data)


def _check_alone(name: str, parameter: dict[str, Any]) -> None:
    """Raises `InvalidStudy`, which says of which parameter it is: of itself it knows its own name not."""
    try:
        Space.from_json({name: {**parameter, "when": {}}})
    except InvalidStudy as error:
        if error.field not in parameter:
            raise
        place = f"spec.space.{name[:80]}."
        raise InvalidStudy(f"{place}{error}", field=f"{place}{error.field}") from error


_LR = {"kind": "float", "low": 0.0001, "high": 0.1, "log": True}
_OPTIMIZER = {"kind": "choice", "choices": ["sgd", "adamw"]}
_SPEC = {
    "name": "digits",
    "space": {"lr": _LR, "optimizer": _OPTIMIZER},
    "metrics": {"accuracy": "max"},
    "budget": {"trials": 60, "minutes": 10.0},
}


class Declaration(Body):
    """A study to make, or to open again."""

    model_config = example(spec=_SPEC, queued=False)

    spec: SpecBody
    entrypoint: Annotated[str | None, Field(max_length=4096, description="FILE:NAME that workers load.")] = None
    code_sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{1,64}$")] = None
    package_sha256: Annotated[Sha256 | None, Field(description="The code that was uploaded for it.")] = None
    queued: Annotated[bool, Field(description="Offer it to every worker.")] = False
    extend: Annotated[bool, Field(description="Accept a wider definition than the study of this name has.")] = False


#: What tags are; that each is a text is for the verb to say.
_TEXTS: dict[str, Any] = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}


class BudgetChange(Body):
    trials: Annotated[StrictInt | None, Field(le=MAX_COUNT, description="In all.")] = None
    minutes: Annotated[Number | None, Field(description="In all.")] = None


class StudyChange(Body):
    """One change: it is done as a whole or not at all. `reason` comes with `state` only."""

    model_config = example(paused=True)

    state: Literal["stopped"] | None = None
    reason: Reason | None = None
    paused: StrictBool | None = None
    archived: StrictBool | None = None
    tags: Annotated[list[JsonValue] | None, Field(max_length=100, json_schema_extra=_TEXTS)] = None
    budget: BudgetChange | None = None

    @model_validator(mode="after")
    def _is_one(self) -> StudyChange:
        given = self.model_fields_set - {"reason"}
        if len(given) != 1 or getattr(self, next(iter(given))) is None:
            raise ValueError("give one of state, paused, archived, tags, budget")
        if self.reason is not None and self.state is None:
            raise ValueError("reason comes with state only; leave it out")
        return self


Limit = Annotated[int, Field(ge=1, le=1000, description="Items at most.")]


class StudyQuery(Body):
    """Which studies, and in what order."""

    limit: Limit = 100
    after: Annotated[int | None, Field(ge=1, le=MAX_ID, description="`next` of the page before.")] = None
    name: Annotated[str | None, Field(max_length=1000)] = None
    state: StudyState | None = None
    tag: Annotated[str | None, Field(max_length=200)] = None
    archived: bool | None = None
    queued: bool | None = None
    order: Annotated[Literal["id", "-id", "name", "-name"], Field(description="With '-' the other way round.")] = "id"

    def fits(self, record: StudyRecord) -> bool:
        """Whether a study is among those that were asked for."""
        return (
            self.name in (None, record.name)
            and self.state in (None, record.state)
            and (self.tag is None or self.tag in record.tags)
            and self.archived in (None, record.archived)
            and self.queued in (None, record.queued)
        )


class Clone(Body):
    model_config = example(name="digits-2", seed=1)

    name: str
    trials: StrictInt | None = None
    seed: StrictInt | None = None


class Named(Body):
    model_config = example(name="digits")

    name: Annotated[str, Field(max_length=1000)]


class Purge(Body):
    model_config = example(older_than_s=604800.0)

    older_than_s: Annotated[Number, Field(ge=0)]


class Confirmation(Body):
    """How the best trials are run again; null: as the study declares."""

    model_config = example(confirm={"top": 4, "trials": 25, "sure": 0.95})

    confirm: ConfirmBody | None = None


# -- trials ----------------------------------------------------------------------------------------------------------


class Enqueued(Body):
    """A trial with parameters of the caller's; the search chooses the others."""

    model_config = example(params={"lr": 0.01})

    params: Params
    extend: Annotated[bool, Field(description="One trial more, if the budget is used up.")] = False


class Because(Body):
    model_config = example(reason="trained on the test set")

    reason: str


LeaseSeconds = Annotated[Number, Field(ge=0.5, le=86_400)]
Token = Annotated[str, Field(pattern="^[0-9a-f-]{32,64}$", description="Of the lease, as `ask` gave it.")]


class Ask(Body):
    """A trial to work on. It is given to somebody else when nothing is heard of it for `lease_s` seconds."""

    model_config = example(worker="laptop", lease_s=60.0)

    worker: Annotated[str, Field(min_length=1, max_length=200)] = "ask"
    lease_s: LeaseSeconds = 60.0


class Told(Body):
    """What a trial came to: values, one for each metric of the study, or an error."""

    model_config = example(token="0b9e6a5c6f0e4e0b9a609f2d0c2a7f11", values=[0.97], metrics={"loss": 0.1})

    token: Token
    state: Literal["complete", "pruned", "failed"] = "complete"
    values: Annotated[list[Number] | None, Field(max_length=100)] = None
    metrics: Annotated[dict[str, Number], Field(max_length=1000)] = {}
    constraints: Annotated[dict[str, Number], Field(max_length=100)] = {}
    message: Annotated[str, Field(max_length=10_000, description="Of a failed one: what went wrong.")] = ""

    @model_validator(mode="after")
    def _fits(self) -> Told:
        if self.state == "complete" and not self.values:
            raise ValueError("values: a complete trial has some; give one for each metric")
        return self


class Reported(Body):
    """What a trial has come to so far."""

    model_config = example(
        token="0b9e6a5c6f0e4e0b9a609f2d0c2a7f11", step=3, value=0.8, metrics={"loss": 0.4}, lease_s=60.0
    )

    token: Token
    step: Whole
    value: Number | None = None
    metrics: Annotated[dict[str, Number], Field(max_length=1000)] = {}
    lease_s: Annotated[LeaseSeconds | None, Field(description="Keep the trial for so long from now.")] = None


# -- what the model says ---------------------------------------------------------------------------------------------


class Points(Body):
    model_config = example(points=[{"lr": 0.01, "optimizer": "adamw"}])

    points: Annotated[list[Params], Field(max_length=1000)]


class Over(Body):
    """Along one parameter or over two, the others fixed."""

    model_config = example(fixed={"optimizer": "adamw"}, names=["lr"], size=40)

    fixed: Params
    names: Annotated[list[str], Field(min_length=1, max_length=2)]
    size: Annotated[StrictInt, Field(ge=2, le=200)] = 40


# -- models ----------------------------------------------------------------------------------------------------------


class PromotionBody(Body):
    model_config = example(number=7, alias="champion", reason="beats the old one", gates={"accuracy": {"min": 0.97}})

    number: Annotated[Whole | None, Field(description="Of the trial; null: the best.")] = None
    alias: str = "champion"
    model: Annotated[str | None, Field(description="Its name; null: the study's.")] = None
    reason: str | None = None
    force: Annotated[StrictBool, Field(description="Overrule the gates; needs a reason.")] = False
    who: Annotated[str | None, Field(max_length=200)] = None
    gates: Annotated[dict[str, BoundBody], Field(max_length=100)] = {}

    def options(self, who: str | None) -> dict[str, Any]:
        """As `promotion.Options` takes them."""
        given = {name: getattr(self, name) for name in ("alias", "model", "reason", "force")}
        return given | {"who": who, "gates": {name: bound.to_json() for name, bound in self.gates.items()}}


class Rollback(Body):
    model_config = example(name="digits", alias="champion", reason="slow on the new machines")

    name: Annotated[str, Field(max_length=1000)]
    alias: str = "champion"
    reason: str | None = None
    who: Annotated[str | None, Field(max_length=200)] = None


class Drain(Body):
    model_config = example(name="gpu-1-4711", on=True)

    name: Annotated[str, Field(max_length=1000)]
    on: StrictBool = True
