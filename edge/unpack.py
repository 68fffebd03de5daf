"""Unpack: what a pack brings passes the rules of what the broker brings, and its parts go to the shelf."""

from collections.abc import Callable

from edge.pack import PackFile
from edge.shelf import Kept, Shelf
from edge.trust import Trust
from shared.errors import SignatureError
from shared.manifest import RELEASE_TYPE, Manifest, ModelSpec, VariantName, check_number


def unpack(
    pack: PackFile, *, trust: Trust, shelf: Shelf, unsigned: bool, variant: Callable[[ModelSpec], VariantName]
) -> Kept:
    """The release of a pack, accepted, and its parts on the shelf; not a part is read before that.

    unsigned: whether nobody need have signed it. variant: which one this camera runs; the other's parts are passed by.
    ManifestError or PackError says why it is refused, PartError which
    part is damaged; OSError where the file or the disk fails.
    """
    with pack:
        data, signed = pack.manifest()
        if not signed and not unsigned:
            raise SignatureError("is not signed", subject=pack.name, remedy="Pack it without --unsigned")
        opened = trust.open(data, RELEASE_TYPE, Manifest) if signed else None
        manifest = opened.body if opened is not None else trust.open_unsigned(data, Manifest)
        check_number("release", manifest.number, shelf.state.floor, frozenset(shelf.state.failed))
        if opened is not None:
            trust.accept(opened)
        kept = Kept(release=manifest.number, model=manifest.model, variant=variant(manifest.model))
        used = {part.sha256 for part in kept.model.parts(kept.variant).values()}
        for name, part in manifest.model.all_parts().items():
            data = pack.part(name, part)
            if part.sha256 in used:
                shelf.write(part, data)
    return kept
