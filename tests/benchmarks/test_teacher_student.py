"""Teacher and student: gradients, curvatures and recovery against what is known in closed form."""

import math

import pytest
import torch
from torch import nn

from benchmarks.studies.teacher_student import (
    Inputs,
    curvatures,
    expected_gradient,
    fan,
    gradient,
    near,
    saddle,
    starts,
    steepness,
)

TEACHER = torch.tensor([0.6, 0.0, -0.8, 0.0], dtype=torch.float64)
RELU = nn.ReLU()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_gradient_on_many_images_is_the_expected_one() -> None:
    students = starts(5, TEACHER, 2.0, seeded())
    patches = Inputs(patches=3).draw(200_000, TEACHER, seeded())
    found, expected = gradient(students, TEACHER, patches, RELU), expected_gradient(students, TEACHER, 3)
    assert expected.abs().max() > 0.3 and torch.allclose(found, expected, atol=0.01)


def test_the_gradient_is_zero_at_the_teacher_and_at_the_saddle_opposite_to_it() -> None:
    for patches in (2, 8):
        students = torch.stack([TEACHER, -saddle(patches) * TEACHER, -TEACHER])
        found = expected_gradient(students, TEACHER, patches).norm(dim=1)
        assert found.tolist() == pytest.approx([0, 0, 1 / (2 * patches)], abs=1e-6)


@pytest.mark.parametrize("closeness", [0.0, 0.5, 1.0])
def test_close_patches_steepen_the_loss_across_the_teacher(closeness: float) -> None:
    across, along = curvatures(8, closeness)
    found = steepness(TEACHER, Inputs(closeness=closeness).draw(100_000, TEACHER, seeded()), RELU)
    assert found == pytest.approx((across, along), rel=0.03)
    assert across == pytest.approx({0.0: 1 / 16, 0.5: 0.5 / 8 + 7 / 8 * 0.5 / 3, 1.0: 0.5}[closeness])


def test_on_axes_only_a_student_in_the_same_orthant_recovers() -> None:
    teacher = torch.tensor([0.6, 0.6, -0.5291502622], dtype=torch.float64)
    eye = math.sqrt(3) * torch.eye(3, dtype=torch.float64)
    points = torch.cat([eye, -eye]).unsqueeze(1)
    signs = (-1.0, 1.0)
    students = 0.3 * torch.tensor([[a, b, c] for a in signs for b in signs for c in signs], dtype=torch.float64)
    for _ in range(200):
        students = students - 0.3 * gradient(students, teacher, points, RELU)
    recovered = (students - teacher).norm(dim=1) < 0.01
    assert recovered.tolist() == [False] * 6 + [True, False]
    drawn = Inputs("axes", 1, smoothness=0.0).draw(50, teacher, seeded())
    assert all(any(torch.equal(patch, point) for point in points) for patch in drawn)


def test_nearly_half_of_small_random_students_are_near_the_teacher() -> None:
    found = near(starts(20_000, TEACHER, 0.1, seeded()), TEACHER).double().mean().item()
    assert 0.5 - 0.1 * math.sqrt(math.pi * 4 / 2) < found < 0.5  # the bound of Du et al., theorem 3.4
    assert found == pytest.approx(0.475, abs=0.01)


def test_in_a_cone_a_student_on_the_other_side_is_dead_unless_its_function_leaks() -> None:
    patches = Inputs("cone", angle=20).draw(500, TEACHER, seeded())
    cosines = patches @ TEACHER / patches.norm(dim=2)
    assert cosines.min() >= math.cos(math.radians(20)) - 1e-9 and patches.square().mean() == pytest.approx(1)
    students = fan(18, TEACHER, 0.1, seeded())  # 5, 15, ..., 175 degrees
    angles = torch.rad2deg((students @ TEACHER / students.norm(dim=1)).acos())
    assert angles.tolist() == pytest.approx([5.0 + 10 * k for k in range(18)])
    moved = gradient(students, TEACHER, patches, RELU).norm(dim=1) > 0
    assert moved.tolist() == [True] * 11 + [False] * 7 or (moved[:9].all() and not moved[11:].any())
    assert (gradient(students, TEACHER, patches, nn.LeakyReLU(0.01)).norm(dim=1) > 0).all()


def test_windows_of_a_line_overlap() -> None:
    patches = Inputs("signal", patches=3, closeness=0.5).draw(20_000, TEACHER, seeded())
    assert torch.equal(patches[:, 0, 1:], patches[:, 1, :-1]) and patches.square().mean() == pytest.approx(1, abs=0.02)
    assert (patches[:, 0] * patches[:, 1]).mean() == pytest.approx(0.5, abs=0.02)
