@echo off
rem Opens Treino's window. A double click is enough.
setlocal
cd /d "%~dp0"
title Treino
set "PYTHONUTF8=1"
set "PYTHON="

rem The launcher of python.org finds the newest Python, which may be too new; the last two may be an old one, or the
rem Store's stand-in.
call :try py -3
if defined PYTHON goto start
call :try py -3.13
if defined PYTHON goto start
call :try py -3.12
if defined PYTHON goto start
call :try py -3.11
if defined PYTHON goto start
call :try python
if defined PYTHON goto start
call :try python3
if defined PYTHON goto start

echo.
if defined FOUND goto unsuited
echo Treino needs Python, and none was found on this computer.
goto advice

:unsuited
echo Python was found, but Treino needs a 64-bit Python from 3.11 to 3.14.

:advice
echo.
echo   1. Open https://www.python.org/downloads/ and download Python 3.13 (64-bit).
echo   2. Run the installer, and tick "Add python.exe to PATH" on its first page.
echo   3. Double click gui.bat again.
echo.
echo If a shop opens instead when Python is started: Settings, Apps, Advanced app settings,
echo App execution aliases; switch off python.exe and python3.exe there.
goto failed

:start
%PYTHON% gui.py %*
if not errorlevel 1 goto done
if errorlevel 130 if not errorlevel 131 goto done
echo.
echo Treino ended with an error. The lines above say why.

:failed
echo.
pause
exit /b 1

:done
exit /b 0

rem Sets PYTHON to the command if it runs a 64-bit Python that is neither too old nor too new for the packages; FOUND if
rem it runs any Python.
rem The Store's stand-in prints nothing of its own and fails.
:try
%* -c "import sys" >nul 2>nul
if errorlevel 1 goto :eof
set "FOUND=1"
%* -c "import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.maxsize > 2**32))" >nul 2>nul
if errorlevel 1 goto :eof
set "PYTHON=%*"
goto :eof
