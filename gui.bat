@echo off
rem Opens Treino by a double click: finds a Python that fits, and says what to do where there is none.
setlocal
cd /d "%~dp0"
set PYTHONUTF8=1
set PYTHON=

for %%P in ("py -3" "python" "python3") do if not defined PYTHON call :try %%P
if not defined PYTHON goto none

%PYTHON% gui.py %*
if errorlevel 1 goto failed
exit /b 0

:try
rem The Store's "python" is no Python but an advertisement: it prints nothing and ends with an error.
for /f "delims=" %%V in ('%~1 -c "import sys; print('good' if sys.version_info[:2] >= (3, 11) and sys.maxsize > 2**32 else 'bad')" 2^>nul') do set FOUND=%%V
if "%FOUND%"=="good" set PYTHON=%~1
if "%FOUND%"=="bad" set UNFIT=1
set FOUND=
exit /b 0

:none
echo.
if defined UNFIT echo The Python on this computer is too old or a 32-bit one. Treino needs 3.11 or newer, 64-bit.
if not defined UNFIT echo There is no Python on this computer.
echo Install Python 3.13 (64-bit) from https://www.python.org/downloads/windows/
echo and tick "Add python.exe to PATH" in its installer. Then double click gui.bat again.
echo.
pause
exit /b 1

:failed
echo.
echo Treino ended with an error; the lines above tell why.
pause
exit /b 1
