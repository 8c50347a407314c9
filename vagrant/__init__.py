"""The lab with virtual machines: Vagrantfile, image, provisioning, and in `vm_lab` the Python part."""
