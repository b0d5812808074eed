def create_network():
    import fastr

    network = fastr.create_network(id='trivial')
    left = network.create_constant('Int', [20], id='left')
    node = network.create_node('fastr/math/AddInt:1.0', tool_version='1.0', id='add')
    node.inputs['left_hand'] = left.output
    node.inputs['right_hand'] = [22]
    sink = network.create_sink('Int', id='sum')
    sink.input = node.outputs['result']
    return network
