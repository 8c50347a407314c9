"""The command `python -m vagrant.vm_lab`."""

from vagrant.vm_lab.vm_lab_command import vm_lab

if __name__ == "__main__":
    vm_lab(prog_name="vm-lab")
