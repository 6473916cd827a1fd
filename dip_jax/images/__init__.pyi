from .array_file import read_array as read_array
from .find import list_images as list_images
from .read import StoredImage as StoredImage
from .read import read_image as read_image
from .read import read_mask as read_mask
from .side_inputs import read_guide as read_guide
from .side_inputs import read_kernel as read_kernel
from .write import write_image as write_image
