"""Criteria against their formulas, written out with numpy."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfstab import criteria, settings

# 32 float64 roundings on numbers below 1e3.
TOLERANCE = 32 * np.finfo(np.float64).eps * 1e3

outputs_10 = hnp.arrays(np.float64, (7, 10), elements=st.floats(-30, 30))
outputs_1 = hnp.arrays(np.float64, (7, 1), elements=st.floats(-30, 30))
classes = hnp.arrays(np.int32, 7, elements=st.integers(0, 9))
signs = hnp.arrays(np.float32, 7, elements=st.sampled_from([-1.0, 1.0]))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(f=outputs_10, y=classes)
def test_losses_of_ten_classes_follow_their_formulas(f, y):
    with jax.enable_x64(True):
        squared = criteria.squared_error(jnp.asarray(f), jnp.asarray(y))
        entropy = criteria.cross_entropy(jnp.asarray(f), jnp.asarray(y))
    target = np.eye(10)[y]
    np.testing.assert_allclose(squared, ((f - target) ** 2).sum(axis=1), atol=TOLERANCE)
    softmax = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(entropy, -np.log(softmax[np.arange(7), y]), atol=TOLERANCE)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(f=outputs_1, y=signs)
def test_losses_of_signs_follow_their_formulas(f, y):
    with jax.enable_x64(True):
        squared = criteria.squared_error(jnp.asarray(f), jnp.asarray(y))
        logistic = criteria.logistic(jnp.asarray(f), jnp.asarray(y))
    np.testing.assert_allclose(squared, (f[:, 0] - y) ** 2, atol=TOLERANCE)
    np.testing.assert_allclose(logistic, np.log1p(np.exp(-y * f[:, 0])), atol=TOLERANCE)


def test_logistic_does_not_overflow():
    with jax.enable_x64(True):
        losses = criteria.logistic(jnp.array([[1e4], [1e4]]), jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(losses, [0.0, 1e4])


def test_two_class_cross_entropy_is_the_logistic_loss_of_the_difference():
    with jax.enable_x64(True):
        f = jnp.array([[0.3, -0.2], [1.0, 2.5], [-4.0, 0.1]])
        y = jnp.array([0, 1, 0], jnp.int32)
        two = criteria.cross_entropy(f, y)
        one = criteria.logistic((f[:, 1] - f[:, 0])[:, None], jnp.array([-1.0, 1.0, -1.0]))
    np.testing.assert_allclose(two, one, atol=TOLERANCE)


def test_accuracy_counts_the_right_ones():
    f = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.0, 1.0]])
    assert criteria.accuracy(f, jnp.array([1, 0, 0, 1])) == 0.75
    score = jnp.array([[2.0], [-0.1], [0.0], [-3.0]])
    assert criteria.accuracy(score, jnp.array([1.0, 1.0, -1.0, -1.0])) == 0.75


def test_get_by_name_and_by_setting():
    assert [criteria.get(name) for name in settings.CRITERIA] == [
        criteria.squared_error,
        criteria.cross_entropy,
        criteria.logistic,
    ]
    assert criteria.get(settings.get("mlp-cats-dogs", "test", criterion="logistic")) is criteria.logistic


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="unknown criterion 'hinge'; known: squared-error, cross-entropy, logistic"):
        criteria.get("hinge")


@pytest.mark.parametrize(
    ("criterion", "columns", "targets"),
    [
        (criteria.squared_error, 2, jnp.array([1.0, -1.0])),
        (criteria.squared_error, 1, jnp.array([1, 0])),
        (criteria.logistic, 1, jnp.array([1, 0])),
        (criteria.logistic, 2, jnp.array([1.0, -1.0])),
        (criteria.cross_entropy, 1, jnp.array([1, 0])),
        (criteria.cross_entropy, 2, jnp.array([1.0, -1.0])),
        (criteria.accuracy, 2, jnp.array([1.0, -1.0])),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(criterion, columns, targets):
    with pytest.raises(ValueError, match=rf"needs outputs .* got \(2, {columns}\) and dtype"):
        criterion(jnp.zeros((2, columns)), targets)
