"""A DICOM radiograph without what identifies the child.

The elements go through the Basic Application Level Confidentiality Profile, sequences included, and
pixels are stored anew, so that nothing stays in bytes that no viewer shows.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import uuid
from pathlib import PurePath
from typing import Any

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from boneage_xai import __version__
from boneage_xai.data.dicom_child import age_months_of
from boneage_xai.data.dicom_grey import padding_of
from boneage_xai.data.pixel_decoding import stored_values
from boneage_xai.export.confidentiality_profile import action_on

_DUMMY_TEXT = "REMOVED"
_DUMMIES: dict[str, Any] = {
    "AS": "000D",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "DS": "0",
    "IS": "0",
    "OB": b"\0\0",
    "OW": b"\0\0",
    "UN": b"\0\0",
    "UR": "urn:removed",
}
_NUMBERS = ("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")

# PS3.16, context group 7050.
_BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")
_PATIENT_CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")
_LONGEST_AGE = 999
_PIXEL_DATA = 0x7FE00010


class Pseudonyms:
    """What stands for the identifiers of one call: the same for the same, unknown to others.

    Args:
        key: secret; with another one everything has another name. Who has neither it nor the
            originals cannot tell which identifier a pseudonym stands for, nor try some.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def uid(self, old: str) -> str:
        """Return the UID that replaces one; those that the standard registers stay."""
        old = old.strip("\0 ")
        if not old or UID(old, validation_mode=0).name != old:
            return old
        # The root under which everyone may make UIDs from UUIDs (PS3.5, B.2).
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', old)[:16], version=4).int}"

    def patient(self, issuer: str, patient_id: str) -> str:
        """Return the id of a patient, empty where there was none."""
        patient_id = patient_id.strip()
        if not patient_id:
            return ""
        return self._digest("patient", f"{issuer.strip()}\0{patient_id}")[:8].hex()

    def file_name(self, path: PurePath) -> str:
        """Return the name of the copy of a file, given its place below the source."""
        return f"{self._digest('file', path.as_posix())[:8].hex()}.dcm"

    def _digest(self, kind: str, identifier: str) -> bytes:
        text = f"{kind}\0{identifier}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, hashlib.sha256)


def deidentify(
    dataset: FileDataset, pseudonyms: Pseudonyms, *, keep_patient_characteristics: bool = False
) -> FileDataset:
    """Return a copy of a radiograph's data set without the identifiers of the basic profile.

    Args:
        dataset: one frame of integer pixels that our reader accepts.
        pseudonyms: what UIDs and the patient's id become.
        keep_patient_characteristics: keep sex, age, size, weight, ethnic group, and whether the
            patient is neutered, pregnant or smokes. An age that birth and study date told, or told
            more exactly, is written, in months.

    Returns:
        Explicit little endian, uncompressed, nothing in the preamble. Text that is burned into the
        pixels stays.

    Raises:
        ValueError: a data set that cannot be written; pydicom raises others on damage.

    Source:
        DICOM PS3.15 2026c, Annex E. The patient's id becomes a pseudonym, which the profile
        allows beside an empty one, so that the images of one child can be told to be that.
    """
    made = copy.deepcopy(dataset)
    _store_pixels_anew(made)
    age_months = age_months_of(dataset)
    patient = pseudonyms.patient(
        str(dataset.get("IssuerOfPatientID", "") or ""), str(dataset.get("PatientID", "") or "")
    )
    _clean(made, pseudonyms, keep_patient_characteristics)
    # Nothing but data elements belongs here; what stands for the file itself is written by pydicom.
    for tag in set(made.keys()):
        if tag.group < 8 or (tag.group >= _PIXEL_DATA >> 16 and tag != _PIXEL_DATA):
            del made[tag]
    made.PatientID = patient
    if keep_patient_characteristics and age_months not in (None, age_months_of(made)):
        made.PatientAge = f"{min(round(age_months), _LONGEST_AGE):03d}M"
    _state_what_was_done(made, keep_patient_characteristics)
    made.preamble = b"\0" * 128
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def _clean(dataset: Dataset, pseudonyms: Pseudonyms, keep: bool) -> None:
    """Apply the profile to the elements of a data set and of all that it holds."""
    for tag in list(dataset.keys()):
        action = action_on(tag, is_sequence=False, keep_patient_characteristics=keep)
        if action == "X":
            del dataset[tag]
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            action = action_on(tag, is_sequence=True, keep_patient_characteristics=keep)
        if action == "X":
            del dataset[tag]
        elif action == "Z":
            dataset[tag] = DataElement(tag, element.VR, Sequence() if element.VR == "SQ" else None)
        elif action == "D":
            dataset[tag] = DataElement(tag, element.VR, _dummy(tag, element, pseudonyms))
        elif action == "U" and element.VR != "SQ":
            dataset[tag] = DataElement(tag, "UI", _renamed(element.value, pseudonyms))
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, pseudonyms, keep)
        elif element.VR == "UN":
            # Its values are of the kind that the dictionary states, or nobody knows what they are.
            del dataset[tag]


def _dummy(tag: BaseTag, element: DataElement, pseudonyms: Pseudonyms) -> Any:
    if element.VR == "SQ":
        return Sequence([Dataset()])
    if element.VR == "UI":
        return _renamed(element.value, pseudonyms)
    if element.VR in _NUMBERS:
        return 0
    return _DUMMIES.get(element.VR, _DUMMY_TEXT)


def _renamed(value: Any, pseudonyms: Pseudonyms) -> Any:
    if value is None or isinstance(value, str | bytes):
        return pseudonyms.uid(str(UID(str(value or ""), validation_mode=0)))
    return [pseudonyms.uid(str(one)) for one in value]


def _store_pixels_anew(dataset: FileDataset) -> None:
    """Keep the pixels alone: compressed pictures have comments, and others may have more bytes."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated or syntax == ExplicitVRBigEndian:
        values, interpretation = stored_values(dataset, correct_unused_bits=syntax.is_encapsulated)
        dataset.PixelData = values.astype(values.dtype.newbyteorder("<")).tobytes()
        dataset.PhotometricInterpretation = interpretation
        if values.ndim == 3:
            dataset.PlanarConfiguration = 0
    n_bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    n_bytes = (n_bits * int(dataset.BitsAllocated) + 7) // 8
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        n_bytes = n_bytes // 3 * 2
    pixels = _without_hidden_bits(dataset, bytes(dataset.PixelData[:n_bytes]))
    representation = "OB" if int(dataset.BitsAllocated) <= 8 else "OW"
    dataset[_PIXEL_DATA] = DataElement(
        _PIXEL_DATA, representation, pixels + b"\0" * (len(pixels) % 2)
    )


def _without_hidden_bits(dataset: FileDataset, pixels: bytes) -> bytes:
    """Return the pixels without what no viewer shows of them: overlays hide there.

    Signed values fill the bits above those stored by their sign. Unsigned ones have none that the
    reader accepts, but in padding, which is one value then.
    """
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated % 8:
        return pixels
    signed = int(dataset.get("PixelRepresentation", 0) or 0) == 1
    values = np.frombuffer(pixels, dtype=f"<{'i' if signed else 'u'}{allocated // 8}")
    if signed:
        unused = max(allocated - stored, 0)
        values = ((values << unused) >> unused).astype(values.dtype)
    elif int(dataset.SamplesPerPixel) == 1 and (padding := padding_of(values, dataset)).any():
        values = np.where(padding, values.dtype.type(dataset.PixelPaddingValue), values)
    return values.tobytes()


def _state_what_was_done(dataset: Dataset, keep_patient_characteristics: bool) -> None:
    done = [_BASIC_PROFILE]
    if keep_patient_characteristics:
        done.append(_PATIENT_CHARACTERISTICS)
    codes = []
    for value, meaning in done:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"boneage_xai {__version__}: PS3.15 Annex E basic profile"
    dataset.DeidentificationMethodCodeSequence = Sequence(codes)
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
