from mmcl_fast.cli import main

main()
