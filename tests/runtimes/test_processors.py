"""What depends on the processor: precisions that it lacks, and int8 without saturation."""
import pytest

from timm_ofa.errors import InputError
from timm_ofa.runtimes.ncnn import load
from timm_ofa.spaces import load_space

SPACE = load_space('ofa_mbv3_tiny')


def test_ncnn_refuses_fp16_where_it_would_calculate_in_fp32():
    ncnn = pytest.importorskip('ncnn')
    if ncnn.cpu_support_arm_asimdhp():
        pytest.skip('this processor has fp16 arithmetic')
    with pytest.raises(InputError, match="precision 'fp16' is not one of this processor; choose fp32"):
        load(SPACE.rows(SPACE.min_arch()), precision='fp16')
