"""Images are numbered by their slices, as far as MRD has numbers."""

from sbim_deploy.serving.images import ImageForm, SessionImages


def test_the_last_slice_that_mrd_can_number_has_an_image_number_too():
    images = SessionImages(ImageForm())
    numbers = [
        images._next_numbers("series", number)[1] for number in (0, 2**16 - 2, 2**16 - 1, 2**16 - 1, 0)
    ]
    assert numbers == [1, 2**16 - 1, 2, 3, 4]


def test_a_slice_that_comes_again_gets_the_next_number():
    images = SessionImages(ImageForm())
    assert [images._next_numbers("series", number)[1] for number in (0, 1, 0, 2)] == [1, 2, 3, 4]
