"""Texts of strangers become values that DICOM takes, or nothing."""

import pytest

from sbim_deploy.io.dicom_values import as_date, as_name, as_same_text, as_sex, as_text, as_time, as_uid


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-02-29", "20240229"),
        ("20240229Z", "20240229"),
        ("2024-02-29+01:00", "20240229"),
        ("2023-02-29", ""),
        ("2024-13-01", ""),
        ("٢٠٢٤-٠٢-٠٣", ""),
        ("0000-01-01", ""),
        ("2024-02-29\n", ""),
        ("9" * 1_000_000, ""),
        (None, ""),
    ],
)
def test_dates_are_days_of_the_calendar(text, value):
    assert as_date(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("07:08:09", "070809"),
        ("070809.1234567", "070809.123456"),
        ("23:59:59Z", "235959"),
        ("24:00:00", ""),
        ("07:60:00", ""),
        ("٠٧:٠٨:٠٩", ""),
        ("noon", ""),
        (None, ""),
    ],
)
def test_times_are_hours_of_a_day(text, value):
    assert as_time(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.2.840.0.3", "1.2.840.0.3"),
        ("1.2.03", ""),
        ("1", ""),
        ("1..2", ""),
        ("1.٢", ""),
        ("1." + "2" * 63, ""),
        ("1.2\n", ""),
    ],
)
def test_identifiers_are_components_without_leading_zeros(text, value):
    assert as_uid(text) == value


def test_texts_are_one_line_of_a_length():
    assert as_text("a\\b\0c\n  d\ud800é", 64) == "a b c d é"
    assert as_text("x" * 1_000_000, 16) == "x" * 16
    assert as_text(None, 16) == as_text("\n", 16) == as_text("abc", -1) == ""


@pytest.mark.parametrize("text", ["a\nb", "a\\b", "x" * 17, " a", "", None])
def test_a_text_that_would_have_to_change_is_none(text):
    assert as_same_text(text, 16) == ""
    assert as_same_text("Ä  b", 16) == "Ä  b"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Doe^Jane", "Doe^Jane"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("a=b=c=d", ""),
        ("a^b^c^d^e^f", ""),
        ("a\nb", ""),
        ("x" * 65, ""),
        (None, ""),
    ],
)
def test_names_have_three_groups_of_five_parts(text, value):
    assert as_name(text) == value


def test_a_sex_is_one_of_three_letters():
    assert [as_sex(text) for text in ("M", "F", "O", "m", "", None)] == ["M", "F", "O", "", "", ""]
