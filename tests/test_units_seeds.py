"""Units and expressions are read without executing anything; random streams have addresses."""

import numpy as np
import pytest

from sbi_circuits import seeds, units
from sbi_circuits.errors import CircuitError, PriorError


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("1", 1.0), ("mV", 1e-3), ("nS", 1e-9), ("pF", 1e-12), ("Hz", 1.0), ("1/ms", 1e3), ("mV*ms", 1e-6)],
)
def test_units_as_si_factors(unit: str, scale: float) -> None:
    assert units.unit_scale(unit) == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("unit", ["furlong", "mV +", "mV + ms", ""])
def test_unknown_units(unit: str) -> None:
    with pytest.raises(PriorError, match="unknown unit"):
        units.unit_scale(unit)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2*mV + 3*mV", 5e-3),
        ("floor(n*p)", 5.0),
        ("clip(n, 0, 3)", 3.0),
        ("where(n > 5, 1, 2)", 1.0),
        ("n >= 2 and p != 1", True),
        ("not (n < 2 or p == 1)", True),
        ("-n**2 % 7", 5.0),
        (3.5, 3.5),
    ],
)
def test_expressions(expression: str | float, value: float) -> None:
    assert units.evaluate(expression, {"n": 10.0, "p": 0.55}) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("n +", "cannot read the expression 'n +': invalid syntax"),
        ("n*missing", "undefined name 'missing' in 'n*missing'; known: n"),
        ("open(n)", "unknown function 'open' in 'open(n)'; valid: " + ", ".join(sorted(units.FUNCTIONS))),
        ("n.real", "Attribute is not allowed in the expression 'n.real'"),
        ("[n][0]", "Subscript is not allowed in the expression '[n][0]'"),
        ("(lambda: n)()", None),
        ("'text'", "Constant is not allowed in the expression \"'text'\""),
        ("n if n else 1", "IfExp is not allowed in the expression 'n if n else 1'"),
    ],
)
def test_expressions_that_are_refused(expression: str, message: str | None) -> None:
    with pytest.raises(CircuitError) as error:
        units.evaluate(expression, {"n": 1.0})
    assert "\n" not in str(error.value)
    if message is not None:
        assert str(error.value) == message


def test_an_expression_read_once_takes_any_values_and_functions() -> None:
    for factor in (2.0, 3.0):
        for n in (1.0, 5.0):
            known, functions = {"n": n, "not_a_unit": 1.0}, {"f": lambda x, k=factor: k * x}
            assert units.evaluate("f(n) + not_a_unit", known, functions) == factor * n + 1.0
    with pytest.raises(CircuitError, match="unknown function 'f'"):
        units.evaluate("f(n) + not_a_unit", {"n": 1.0})
    with pytest.raises(CircuitError, match="undefined name 'not_a_unit'"):
        units.evaluate("f(n) + not_a_unit", {"n": 1.0}, {"f": float})


def test_names_leave_functions_out() -> None:
    assert units.names_in("exp(v/tau) + I_0*rand()") == {"v", "tau", "I_0"}


@pytest.mark.parametrize(
    ("expression", "unit"),
    [
        ("v/tau", "mV/ms"),
        ("sqrt(tau**2)", "ms"),
        ("clip(v, v, v)", "mV"),
        ("exp(v/v)", "1"),
        ("int(v > v)", "1"),
    ],
)
def test_dimensions_that_fit(expression: str, unit: str) -> None:
    units.check_dimensions(expression, unit, units.declared_quantities([("v", "mV"), ("tau", "ms")]), "here")


@pytest.mark.parametrize(
    ("expression", "start"),
    [
        ("v + tau", "here: units do not fit in 'v + tau': "),
        ("exp(v)", "here: units do not fit in 'exp(v)': "),
        ("v*tau", "here: 'v*tau' has units "),
        ("w", "here: undefined name 'w'"),
    ],
)
def test_dimensions_that_do_not_fit(expression: str, start: str) -> None:
    with pytest.raises(CircuitError) as error:
        units.check_dimensions(
            expression, "mV", units.declared_quantities([("v", "mV"), ("tau", "ms")]), "here"
        )
    assert str(error.value).startswith(start) and "\n" not in str(error.value)


def test_streams_are_the_same_on_every_machine() -> None:
    assert seeds.stream_key(1, 2, "initial", "exc") == 5395773934714131655320529109167084714
    assert seeds.kernel_keys(1, 2) == (2083272551, 451006294)
    assert seeds.generator(1, 2, "x").random(2).tolist() == [0.2199965441084969, 0.2683391939588793]


def test_a_stream_is_philox_with_the_key_of_its_address() -> None:
    expected = np.random.Generator(np.random.Philox(key=seeds.stream_key(7, 3, "initial")))
    found = seeds.generator(7, 3, "initial")
    assert str(found.bit_generator.state) == str(expected.bit_generator.state)
    assert np.array_equal(found.random(9), expected.random(9))


def test_streams_differ_by_seed_and_label() -> None:
    keys = {seeds.stream_key(s, i, label) for s in range(3) for i in range(30) for label in ("a", "b")}
    assert len(keys) == 180
    assert seeds.stream_key(1, "ab", "c") != seeds.stream_key(1, "a", "bc")


@pytest.mark.parametrize("width", [1, 4, 5, 28])
def test_uniform_rows_are_addressed(width: int) -> None:
    whole = seeds.uniform_rows(3, 0, 40, width, "prior")
    assert whole.shape == (40, width) and (whole >= 0).all() and (whole < 1).all()
    assert np.array_equal(seeds.uniform_rows(3, 17, 23, width, "prior"), whole[17:23])
    assert len(np.unique(whole)) == whole.size
