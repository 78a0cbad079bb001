"""What a node need not say, because ONNX takes it so where nothing is said."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from onnx import AttributeProto, NodeProto, defs, helper

#: place of the weights among the operands of what convolves
_WEIGHTS: Mapping[str, int] = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
#: attribute of these → all entries of the list that is meant where there is none
_LISTS = {"dilations": 1, "strides": 1, "pads": 0}


def leave_out_defaults(nodes: Iterable[NodeProto], opset: int, initializers: Container[str]) -> None:
    """Take from nodes of ONNX's own operators what they mean all the same, and names that are empty.

    ``opset``: whose defaults count; ``initializers``: tensors whose shape a file says, so that convolutions
    with them need not say the extents of their kernels.
    """
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                leave_out_defaults(attribute.g.node, opset, initializers)
        if not node.name:
            node.ClearField("name")
        if node.domain:
            continue
        node.ClearField("domain")
        said = [one for one in node.attribute if not _is_default(node, one, opset, initializers)]
        if len(said) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(said)


def _is_default(node: NodeProto, one: AttributeProto, opset: int, initializers: Container[str]) -> bool:
    if node.op_type in _WEIGHTS:
        if one.name in _LISTS:
            return all(entry == _LISTS[one.name] for entry in one.ints)
        if one.name == "kernel_shape":
            return node.input[_WEIGHTS[node.op_type]] in initializers
    schema = defs.get_schema(node.op_type, opset)
    default = schema.attributes[one.name].default_value
    return bool(default.name) and helper.get_attribute_value(default) == helper.get_attribute_value(one)
