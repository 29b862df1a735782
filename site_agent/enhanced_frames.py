"""Enhanced multi-frame images (PS3.3 A.36 MR, A.38 CT, A.70 legacy converted) as classic slices.

What a classic image says once, an enhanced one says in functional groups, shared by all frames or
one per frame (PS3.3 C.7.6.16). Each frame becomes a header of its own that says the same in classic
elements, so that the rest of the way in knows one kind of slice.
"""

from collections.abc import Iterator

from pydicom.dataset import Dataset

from algorithms.contracts.errors import DataError
from site_agent.slice_stack import whole_number_of_frames

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# functional group -> what it holds of a classic slice
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
}
_CLASSIC = {
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "EffectiveEchoTime": "EchoTime",
}
_DROPPED = (
    _SHARED, _PER_FRAME, "NumberOfFrames", "PixelData", "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)  # fmt: skip


def is_enhanced(image: Dataset) -> bool:
    """Say whether an image states its frames in functional groups."""
    return _SHARED in image or _PER_FRAME in image


def frame_headers(image: Dataset, where: str) -> Iterator[Dataset]:
    """Yield one classic header per frame, in file order, without pixels.

    `ConcatenationFrameOffsetNumber` of a header says how many frames of the file come before it.

    Args:
        image: an enhanced image; left as it is.
        where: names the file.

    Raises:
        DataError: there is not one item of functional groups for each frame.
    """
    shared = image.get(_SHARED, None) or [Dataset()]
    frames = image.get(_PER_FRAME, None) or []
    if len(frames) != whole_number_of_frames(image) or len(shared) != 1:
        raise DataError(
            f"{where} does not describe each of its frames: export the series again, or as "
            "classic single-frame images"
        )
    common = _copy(image)
    for keyword in _DROPPED:
        if keyword in common:
            del common[keyword]
    _add_groups(common, shared[0])
    for number, groups in enumerate(frames):
        header = _copy(common)
        _add_groups(header, groups)
        header.ConcatenationFrameOffsetNumber = number
        yield header


def _copy(image: Dataset) -> Dataset:
    """Copy the table of elements, which `copy.copy` would share; the values stay the same ones."""
    copied = Dataset()
    copied.update(image)
    implicit, little_endian = image.original_encoding
    copied.set_original_encoding(implicit, little_endian, image.original_character_set)
    copied.file_meta = image.file_meta
    return copied


def _add_groups(header: Dataset, groups: Dataset) -> None:
    for group, keywords in _GROUPS.items():
        items = groups.get(group, None) or []
        for keyword in keywords if len(items) == 1 else ():
            if keyword in items[0]:
                setattr(header, _CLASSIC.get(keyword, keyword), items[0][keyword].value)
