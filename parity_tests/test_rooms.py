from parity_tests.rooms import KERNELS
def test_x():
    assert len(KERNELS)==4
