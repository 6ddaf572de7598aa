"""What MONAI Label needs beyond a plain bundle: an app of our own, in the environment of `make label-env`.

`launch` starts the server from our environment. `app` and `tasks` run inside the server, with numpy 1.26 and pydicom 2;
what needs pydicom 3 (`dicom_worker`) runs in a process of its own. The rest is free of MONAI Label.
"""
