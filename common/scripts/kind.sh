#!/bin/sh
# What a step's program computes: softmax, attention, or decoding (attention of one query, where nothing else is asked for). Its
# --help says so. Usage: kind.sh PROGRAM
case $("$1" --help) in
*--rows*) echo softmax ;;
*"(default 1 and "*) echo decoding ;;
*) echo attention ;;
esac
