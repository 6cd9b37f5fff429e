"""What several tables of a plan check alike."""

from coordinator.protocol.manifest import Record


def refuse_set(record: Record, names: set[str], chosen: str) -> None:
    """Refuse fields that say something where ``chosen`` makes no use of them."""
    for name, field in type(record).model_fields.items():
        if name in names and getattr(record, name) != field.default:
            raise ValueError(f"{chosen} takes no {name}, got {getattr(record, name)}")
