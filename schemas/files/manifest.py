"""A manifest: which rewritten files of a partition count, in an object store.

`partition=3/manifest-0000000007.json`, created once. The one with the highest number counts. Version 1.
"""

from typing import Annotated, Literal

from pydantic import Field

from schemas.common import Message

Number = Annotated[int, Field(ge=0, lt=10**10)]
FileName = Annotated[str, Field(pattern=r"^[0-9]{10}-[0-9a-f]{32}/[0-9a-z-]{10,100}\.parquet$")]
Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Manifest(Message):
    """The state of a partition's rewritten files."""

    version: Literal[1] = 1
    number: Number = Field(description="Of this manifest; they begin at 0 and have no gap.")
    epoch: Number = Field(description="The number of the manifest by which its writer took the partition.")
    files: list[FileName] = Field(
        description="Merged, erased and checkpoint files, in the partition's folder. They count instead of the versions' own files."
    )
    token: Token = Field(description="Of its writer: whose it is, where the answer to its creation was lost.")
